"""What a pipeline run keeps in MLflow, figures, every query's score, hashes of data; and which run a name means."""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effir.errors import EffirError
from effir.evaluation.variant import Variant
from effir.files import read_json
from effir.tracking import Store, first_line, is_loss, open_store, reaching
from effir.tracking.runs import PARENT, PIPELINE, STAGE

HASHES = "dvc.lock.json"
_ID = re.compile(r"[0-9a-f]{8,32}")
_MODEL = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@dataclass(frozen=True)
class Recorded:
    """What `stages.register` left on a run; what the run does not keep is left out.

    ``figures``: set, or ``cost``, to its figures; ``scores``: set to query id to nDCG@10; ``data``: set to its hash.
    """

    name: str
    params: dict[str, str]
    figures: dict[str, dict[str, float]]
    scores: dict[str, dict[str, float]]
    data: dict[str, str]

    @property
    def sets(self) -> list[str]:
        """The sets that it was evaluated on."""
        return sorted(group for group, figures in self.figures.items() if "ndcg_at_10" in figures)


def read_recorded(store: Store, run_id: str) -> Recorded:
    """Read a run's figures and artifacts; MlflowException or OSError where the store does not give them."""
    run = store.client.get_run(run_id)
    figures: dict[str, dict[str, float]] = {}
    for key, value in run.data.metrics.items():
        group, _, figure = key.partition("/")
        figures.setdefault(group, {})[figure] = value
    kept = {item.path for place in ("", "reports") for item in store.client.list_artifacts(run_id, place)}
    sets = [group for group, values in figures.items() if "ndcg_at_10" in values]
    with tempfile.TemporaryDirectory() as folder:
        hashes = _artifact(store, run_id, HASHES, folder) if HASHES in kept else {}
        rows = {
            name: _artifact(store, run_id, path, folder)
            for name, path in ((name, f"reports/{name}-queries.json") for name in sets)
            if path in kept
        }
    return Recorded(
        name=run.info.run_name,
        params=dict(run.data.params),
        figures=figures,
        scores={name: {query: row["ndcg_at_10"] for query, row in each.items()} for name, each in rows.items()},
        data={name: hashes[f"data/eval/{name}"] for name in sets if f"data/eval/{name}" in hashes},
    )


@reaching()
def find_runs(text: str) -> dict[str, str]:
    """Find the pipeline runs that a run id, the first 8 or more characters of one, or a run name means: id to name.

    EffirError where it is the id of a stage's run.
    """
    store = open_store()
    quote = '"' if "'" in text else "'"
    conditions = [f"attributes.run_name = {quote}{text}{quote}"]
    if _ID.fullmatch(text):
        conditions.append(f"attributes.run_id LIKE '{text}%'")
    found: dict[str, str] = {}
    for condition in conditions:
        runs = store.client.search_runs([store.experiment_id], f"{condition} and tags.`{PIPELINE}` LIKE '%'")
        found |= {run.info.run_id: run.info.run_name for run in runs}
    if not found and len(conditions) > 1:
        _refuse_stage_run(store, conditions[-1])
    return found


@reaching()
def run_of_model(uri: str) -> str:
    """Return the pipeline run of ``models:/<name>@<alias>`` or ``models:/<name>/<version>``; EffirError for none."""
    from mlflow.exceptions import MlflowException

    parts = _MODEL.fullmatch(uri)
    if parts is None:
        raise EffirError(f"{uri} names no version: write models:/<name>@<alias> or models:/<name>/<number>")
    client = open_store().client
    try:
        if parts["alias"]:
            version = client.get_model_version_by_alias(parts["name"], parts["alias"])
        else:
            version = client.get_model_version(parts["name"], parts["version"])
    except MlflowException as error:
        if is_loss(error):
            raise
        raise EffirError(f"{uri} is not registered ({first_line(error)}): `effir models` lists the versions") from None
    if not version.run_id:
        raise EffirError(f"{uri} was not registered by a pipeline run: name a version that `effir models` lists")
    return str(version.run_id)


@reaching()
def read_run(run_id: str, name: str) -> Variant:
    """Read a pipeline run as a variant, shown as ``name``; EffirError where it has no figures."""
    from mlflow.exceptions import MlflowException

    try:
        found = read_recorded(open_store(), run_id)
    except (MlflowException, OSError) as error:
        if is_loss(error):
            raise
        raise EffirError(f"the MLflow run {run_id} cannot be read ({first_line(error)}): name another run") from None
    if not found.sets:
        raise EffirError(f"the MLflow run {run_id} has no figures yet: complete it by `dvc repro`, or name another run")
    return Variant(
        name=name,
        params=found.params,
        quality={set_: found.figures[set_] for set_ in found.sets},
        scores=found.scores,
        cost=found.figures.get("cost", {}),
        data=found.data,
        source=f"MLflow run {run_id}, {found.name}",
    )


def _refuse_stage_run(store: Store, condition: str) -> None:
    for run in store.client.search_runs([store.experiment_id], condition, max_results=1):
        tags: Mapping[str, str] = run.data.tags
        if PARENT in tags:
            raise EffirError(
                f"run {run.info.run_id} is of the stage {tags.get(STAGE)}: name its pipeline run, {tags[PARENT]}"
            )


def _artifact(store: Store, run_id: str, path: str, folder: str) -> Any:
    return read_json(Path(store.client.download_artifacts(run_id, path, folder)))
