"""MLflow runs of a pipeline: one for each identity, with the runs of its stages nested in it."""

import hashlib
import json
import math
import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from effir.files import project_root, read_json
from effir.params import flatten
from effir.tracking.store import DESCRIPTION, Store, open_store, reaching, store_lock

Point = tuple[str, float, int, int]  # metric, value, milliseconds since 1970, step

PARENT = "mlflow.parentRunId"
STAGE = "effir.stage"
PIPELINE = "effir.pipeline"
MADE_BY = "effir.made_by"
LATE = "effir.logged_late"
HASHES = "dvc.lock.json"
HEAD = ("rev-parse", "--verify", "--quiet", "HEAD")


def pipeline_identity(params: Mapping[str, Any]) -> dict[str, str]:
    """Tags that tell pipelines apart: the DVC experiment, the commit it started from, a hash of all params."""
    canonical = json.dumps(params, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return {
        "effir.experiment": os.environ.get("DVC_EXP_NAME") or "workspace",
        "effir.baseline": os.environ.get("DVC_EXP_BASELINE_REV") or git(project_root(), *HEAD).strip() or "no-commit",
        "effir.params": hashlib.sha256(canonical.encode()).hexdigest(),
    }


@reaching()
def pipeline_run(params: Mapping[str, Any]) -> str:
    """Return the id of the one pipeline run with this identity; create it if there is none."""
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
    """Complete the pipeline run, name it ``run_name``, end it FINISHED and return its id; a second call adds nothing.

    ``records`` holds ``<stage>.json`` of each of ``stages`` (MissingError if one is missing); a stage that
    another pipeline run made gets a nested run that says so. ``artifacts`` given by relative paths keep their folders.
    ``hashes`` (DVC path to md5) become the artifact ``dvc.lock.json``, the model ``card`` becomes ``README.md``;
    ``description`` is Markdown that MLflow shows at the head of the run.
    """
    made_by = [read_json(records / f"{stage}.json") for stage in stages]
    store, pipeline = open_store(), pipeline_run(params)
    log_params(store, pipeline, params)
    known = store.client.get_run(pipeline).data.metrics
    new = {key: value for key, value in metrics.items() if known.get(_name(key)) != value}
    log_points(store, pipeline, points_of(new))
    for path in artifacts:
        folder = None if path.is_absolute() or path.parent == Path() else path.parent.as_posix()
        store.client.log_artifact(pipeline, str(path), folder)
    store.client.log_dict(pipeline, dict(sorted((hashes or {}).items())), HASHES)
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
    made = known_run(store, made_by)
    # With its own times the stages stand in order.
    started, ended = (made.info.start_time, made.info.end_time) if made else (None, None)
    run = _nested(store, pipeline, stage, MADE_BY, made_by, started)
    store.client.set_tag(run, "effir.cached", "true")
    for name in made.data.metrics if made else ():
        history = store.client.get_metric_history(made_by, name)
        log_points(store, run, [(p.key, p.value, p.timestamp, p.step) for p in history])
    store.client.set_terminated(run, "FINISHED", ended)


def log_late(store: Store, pipeline: str, record: Mapping[str, Any]) -> str:
    """Send to the store what a stage's record kept while the store was away; return the stage's run.

    If it has no run in this store, that is a nested run with the tag ``effir.logged_late``.
    """
    kept, run = record["unlogged"], record["run_id"]
    if not run or not known_run(store, run):
        digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
        run = _nested(store, pipeline, record["stage"], LATE, digest, kept["started"])
    log_points(store, run, kept["points"])
    store.client.set_terminated(run, "FINISHED", kept["started"] + int(record["seconds"] * 1000))
    return str(run)


def _nested(store: Store, pipeline: str, stage: str, tag: str, value: str, started: int | None) -> str:
    """Return the nested run of the pipeline with this tag; create it if there is none, so that it is there once."""
    for run in runs_where(store, f"tags.`{PARENT}` = '{pipeline}' and tags.`{tag}` = '{value}'"):
        return str(run.info.run_id)
    return create_run(store, stage, {PARENT: pipeline, STAGE: stage, tag: value}, started)


def known_run(store: Store, run: str) -> Any:
    """Return the run, or None if it is of another store, or was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return store.client.get_run(run)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def points_of(metrics: Mapping[str, float], step: int = 0) -> list[Point]:
    """Give each metric a point in time, now; values that are not finite are left out."""
    now = int(time.time() * 1000)
    return [(_name(key), float(value), now, step) for key, value in metrics.items() if math.isfinite(value)]


def log_points(store: Store, run: str, points: Sequence[Point], model_id: str | None = None) -> None:
    """Add points to a run, and to its logged model ``model_id``; the same ones twice are there once."""
    from mlflow.entities import Metric

    for batch in _batches([Metric(*point, model_id) for point in points], 1000):
        store.client.log_batch(run, metrics=batch)


def log_params(store: Store, run: str, params: Mapping[str, Any]) -> None:
    """Log nested params flat, as far as the run does not have them yet: MLflow's params never change."""
    from mlflow.entities import Param

    known = store.client.get_run(run).data.params
    named = {_name(key): str(value) for key, value in flatten(params).items()}
    for batch in _batches([Param(key, value) for key, value in named.items() if key not in known], 100):
        store.client.log_batch(run, params=batch)


def _name(key: str) -> str:
    """MLflow's alphabet for names: no ``@``."""
    return re.sub(r"[^\w\-. /:]", "_", key.replace("@", "_at_"))


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def runs_where(store: Store, condition: str) -> list[Any]:
    """Find the runs that match a condition in MLflow's search language, the oldest first."""
    return list(store.client.search_runs([store.experiment_id], condition, order_by=["attributes.start_time ASC"]))


def create_run(store: Store, name: str, tags: Mapping[str, str], started: int | None = None) -> str:
    """Create a run; ``started`` in milliseconds since 1970, else now."""
    return str(store.client.create_run(store.experiment_id, started, dict(tags), name).info.run_id)


def git(root: Path, *arguments: str) -> str:
    """Return what git prints in ``root``, or nothing if it fails or is not installed."""
    try:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True).stdout
    except OSError:
        return ""
