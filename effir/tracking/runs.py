"""MLflow runs of a pipeline: one an identity, with the runs of its stages nested in it."""

import hashlib
import json
import math
import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from effir.files import project_root, read_json
from effir.params import flatten
from effir.tracking import Store, open_store, reaching, store_lock

Point = tuple[str, float, int, int]  # metric, value, milliseconds since 1970, step
Item = TypeVar("Item")

PARENT = "mlflow.parentRunId"
STAGE = "effir.stage"
PIPELINE = "effir.pipeline"
MADE_BY = "effir.made_by"
LATE = "effir.logged_late"
DESCRIPTION = "mlflow.note.content"


def pipeline_identity(params: Mapping[str, Any]) -> dict[str, str]:
    """Tags that tell pipelines apart: the DVC experiment, the commit it started from, a hash of all params."""
    canonical = json.dumps(params, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return {
        "effir.experiment": os.environ.get("DVC_EXP_NAME") or "workspace",
        "effir.baseline": os.environ.get("DVC_EXP_BASELINE_REV") or _git_head(),
        "effir.params": hashlib.sha256(canonical.encode()).hexdigest(),
    }


@reaching()
def pipeline_run(params: Mapping[str, Any]) -> str:
    """Id of the one pipeline run with this identity, made where there is none."""
    store, identity = open_store(), pipeline_identity(params)
    digest = hashlib.sha256("\n".join(identity.values()).encode()).hexdigest()
    with store_lock():
        for run in runs_where(store, f"tags.`{PIPELINE}` = '{digest}'"):
            return str(run.info.run_id)
        return create_run(store, identity["effir.experiment"], identity | {PIPELINE: digest})


@reaching()
def finish_pipeline(
    run_name: str,
    *,
    params: Mapping[str, Any],
    stages: Sequence[str],
    records: Path,
    metrics: Mapping[str, float],
    artifacts: Iterable[Path] = (),
    hashes: Mapping[str, str] | None = None,
    description: str = "",
    card: str = "",
) -> str:
    """Complete the pipeline run, name it ``run_name``, end it FINISHED and return its id; twice adds nothing twice.

    ``records`` holds ``<stage>.json`` of each of ``stages`` (EffirError where one is missing); a stage that was made by
    another pipeline run gets a nested run that says so. ``artifacts`` given by relative paths keep their folders.
    ``hashes`` (DVC path to md5) become the artifact ``dvc.lock.json``, the model ``card`` becomes ``README.md``;
    ``description`` is Markdown that MLflow shows at the head of the run.
    """
    made_by = [read_json(records / f"{stage}.json") for stage in stages]
    store, pipeline = open_store(), pipeline_run(params)
    log_params(store, pipeline, params)
    _log_changed_metrics(store, pipeline, metrics)
    for path in artifacts:
        folder = None if path.is_absolute() or path.parent == Path() else path.parent.as_posix()
        store.client.log_artifact(pipeline, str(path), folder)
    store.client.log_dict(pipeline, dict(sorted((hashes or {}).items())), "dvc.lock.json")
    if card:
        store.client.log_text(pipeline, card, "README.md")
    if description:
        store.client.set_tag(pipeline, DESCRIPTION, description)
    for record in made_by:
        made = log_late(store, pipeline, record) if "unlogged" in record else record["run_id"]
        if record["pipeline_run_id"] != pipeline and made == record["run_id"]:
            _show_cached(store, pipeline, record["stage"], made)
    store.client.update_run(pipeline, name=run_name)
    store.client.set_terminated(pipeline, "FINISHED")
    return pipeline


def _show_cached(store: Store, pipeline: str, stage: str, made_by: str) -> None:
    """Nest an ended run for a stage whose outputs were made by run ``made_by`` of another pipeline run."""
    shown = runs_where(store, f"tags.`{PARENT}` = '{pipeline}' and tags.`{MADE_BY}` = '{made_by}'")
    if shown and shown[0].info.status == "FINISHED":
        return
    tags = {PARENT: pipeline, STAGE: stage, "effir.cached": "true", MADE_BY: made_by}
    made = known_run(store, made_by)
    # Its own times, so that stages stand in order; a nested run that a killed process began goes on.
    started, ended = (made.info.start_time, made.info.end_time) if made else (None, None)
    run = shown[0].info.run_id if shown else create_run(store, stage, tags, started)
    if made:
        _copy_metrics(store, made, run)
    store.client.set_terminated(run, "FINISHED", ended)


def log_late(store: Store, pipeline: str, record: Mapping[str, Any]) -> str:
    """Bring into the store what a stage's record kept while the store was away; return the stage's run.

    Where it has none here, that is a nested run tagged ``effir.logged_late``.
    """
    kept, made = record["unlogged"], known_run(store, record["run_id"]) if record["run_id"] else None
    run = made.info.run_id if made else _late_run(store, pipeline, record)
    log_points(store, run, [(name, value, time_, step) for name, value, time_, step in kept["points"]])
    store.client.set_terminated(run, "FINISHED", kept["started"] + int(record["seconds"] * 1000))
    return str(run)


def _late_run(store: Store, pipeline: str, record: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    for shown in runs_where(store, f"tags.`{PARENT}` = '{pipeline}' and tags.`{LATE}` = '{digest}'"):
        return str(shown.info.run_id)
    tags = {PARENT: pipeline, STAGE: record["stage"], LATE: digest}
    return create_run(store, record["stage"], tags, record["unlogged"]["started"])


def known_run(store: Store, run: str) -> Any:
    """Return the run, or None where it was made with another store, or deleted since."""
    from mlflow.exceptions import MlflowException

    try:
        return store.client.get_run(run)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _copy_metrics(store: Store, source: Any, target: str) -> None:
    for name in source.data.metrics:
        history = store.client.get_metric_history(source.info.run_id, name)
        log_points(store, target, [(p.key, p.value, p.timestamp, p.step) for p in history])


def points_of(metrics: Mapping[str, float], step: int) -> list[Point]:
    """Give each metric a point, now; values that are not finite are left out."""
    now = int(time.time() * 1000)
    return [(_name(key), float(value), now, step) for key, value in metrics.items() if math.isfinite(value)]


def log_points(store: Store, run: str, points: Sequence[Point], model_id: str | None = None) -> None:
    """Add points to a run, and to its logged model ``model_id``; the same ones twice are there once."""
    from mlflow.entities import Metric

    for batch in _batches([Metric(*point, model_id) for point in points], 1000):
        store.client.log_batch(run, metrics=batch)


def log_metrics(
    store: Store, run: str, metrics: Mapping[str, float], step: int = 0, model_id: str | None = None
) -> None:
    """Add a point to each metric of a run, and of its logged model ``model_id``; those not finite are left out."""
    log_points(store, run, points_of(metrics, step), model_id)


def _log_changed_metrics(store: Store, run: str, metrics: Mapping[str, float]) -> None:
    known = store.client.get_run(run).data.metrics
    log_metrics(store, run, {key: value for key, value in metrics.items() if known.get(_name(key)) != value}, step=0)


def log_params(store: Store, run: str, params: Mapping[str, Any]) -> None:
    """Log nested params flat, those that the run has not yet: MLflow's params never change."""
    from mlflow.entities import Param

    known = store.client.get_run(run).data.params
    named = {_name(key): str(value) for key, value in flatten(params).items()}
    for batch in _batches([Param(key, value) for key, value in named.items() if key not in known], 100):
        store.client.log_batch(run, params=batch)


def _name(key: str) -> str:
    """MLflow's alphabet for names: no ``@``."""
    return re.sub(r"[^\w\-. /:]", "_", key.replace("@", "_at_"))


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def runs_where(store: Store, condition: str) -> list[Any]:
    """Find the runs that a condition in MLflow's search language holds for, the oldest first."""
    return list(store.client.search_runs([store.experiment_id], condition, order_by=["attributes.start_time ASC"]))


def create_run(store: Store, name: str, tags: Mapping[str, str], started: int | None = None) -> str:
    """Create a run; ``started`` in milliseconds since 1970, else now."""
    return str(store.client.create_run(store.experiment_id, started, dict(tags), name).info.run_id)


def _git_head() -> str:
    command = ["git", "-C", str(project_root()), "rev-parse", "--verify", "--quiet", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no-commit"
