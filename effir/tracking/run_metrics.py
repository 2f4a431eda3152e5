"""What a pipeline run keeps in MLflow (metrics, scores of each query, hashes of data), and which run a name means."""

import re
from collections.abc import Iterable
from typing import Any

from effir.errors import EffirError
from effir.evaluation.variant import Variant
from effir.tracking.runs import HASHES, PARENT, PIPELINE, STAGE, runs_where
from effir.tracking.store import Store, first_line, is_loss, open_store, reaching

_ID = re.compile(r"[0-9a-f]{8,32}")


@reaching()
def find_runs(text: str) -> dict[str, str]:
    """Map ids of pipeline runs to names; ``text``: id, its first 8 or more digits, a name. EffirError: a stage's id."""
    store = open_store()
    quote = '"' if "'" in text else "'"
    pipelines = runs_where(store, f"attributes.run_name = {quote}{text}{quote} and tags.`{PIPELINE}` LIKE '%'")
    same_id = runs_where(store, f"attributes.run_id LIKE '{text}%'") if _ID.fullmatch(text) else []
    pipelines += [run for run in same_id if PIPELINE in run.data.tags]
    for run in same_id:
        if not pipelines and PARENT in (tags := run.data.tags):
            raise EffirError(
                f"run {run.info.run_id} is of the stage {tags.get(STAGE)}: name its pipeline run, {tags[PARENT]}"
            )
    return {run.info.run_id: run.info.run_name for run in pipelines}


@reaching()
def read_run(run_id: str, name: str) -> Variant:
    """Read a pipeline run as a variant, shown as ``name``, without what it does not keep; EffirError: no metrics."""
    from mlflow.exceptions import MlflowException

    try:
        found = _read(open_store(), run_id, name)
    except (MlflowException, OSError) as error:
        if is_loss(error):
            raise
        raise EffirError(f"the MLflow run {run_id} cannot be read ({first_line(error)}): name another run") from None
    if not found.quality:
        raise EffirError(f"the MLflow run {run_id} has no metrics yet: complete its pipeline, or name another run")
    return found


def _read(store: Store, run_id: str, name: str) -> Variant:
    run = store.client.get_run(run_id)
    groups: dict[str, dict[str, float]] = {}
    for key, value in run.data.metrics.items():
        group, _, metric = key.partition("/")
        groups.setdefault(group, {})[metric] = value
    sets = sorted(group for group, values in groups.items() if "ndcg_at_10" in values)
    reports = {set_: f"reports/{set_}-queries.json" for set_ in sets}
    kept = _artifacts(store, run_id, [HASHES, *reports.values()])
    hashes = {set_: kept.get(HASHES, {}).get(f"data/eval/{set_}") for set_ in sets}
    return Variant(
        name=name,
        params=dict(run.data.params),
        quality={set_: groups[set_] for set_ in sets},
        scores={
            set_: {query: score["ndcg_at_10"] for query, score in kept[path].items()}
            for set_, path in reports.items()
            if path in kept
        },
        cost=groups.get("cost", {}),
        data={set_: md5 for set_, md5 in hashes.items() if md5},
        source=f"MLflow run {run_id}, {run.info.run_name}",
    )


def _artifacts(store: Store, run_id: str, paths: Iterable[str]) -> dict[str, Any]:
    """Read the JSON artifacts at those of the ``paths`` that the run has."""
    from mlflow.artifacts import load_dict

    kept = {item.path for place in ("", "reports") for item in store.client.list_artifacts(run_id, place)}
    return {path: load_dict(f"runs:/{run_id}/{path}") for path in paths if path in kept}
