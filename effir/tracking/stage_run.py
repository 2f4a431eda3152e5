"""The run of one stage: what it logs is sent at once, and kept while the store is away."""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from effir.files import write_json
from effir.tracking import Store, first_line, open_store, reaching, store_errors
from effir.tracking.runs import (
    PARENT,
    STAGE,
    Point,
    create_run,
    log_params,
    log_points,
    pipeline_run,
    points_of,
    runs_where,
)
from effir.tracking.server import StoreError, require_answer

PAUSE_SECONDS = 60.0  # between two attempts: a lost server may take a tenth of a training's time, not more
LAST_SECONDS = 30.0  # at the end of a stage, for a server that is just being restarted
PROCESS = "effir.process"
WITHOUT = "or set tracking.required: false to run without it"

Say = Callable[[str], object]


@dataclass
class StageRun:
    """The open MLflow run of one stage; what is logged shows at once.

    ``id`` and ``store`` are None where the store was away from the start. ``kept`` are the points that were not sent
    yet, ``lost`` names what else was not, and ``reason`` says why.
    """

    id: str | None
    store: Store | None
    kept: list[Point] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    reason: str = ""
    next_attempt: float = 0.0

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a point to each metric, at training step ``step``; values that are not finite are left out.

        A store that is away stops no stage: the points are sent with a later one, or at the end.
        """
        self.kept += points_of(metrics, step or 0)
        if time.monotonic() >= self.next_attempt:
            self._reach(lambda store, run: None)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log nested params flat: ``prune.width``."""
        if not self._reach(lambda store, run: log_params(store, run, params)):
            self.lost.append(f"params {', '.join(params)}")

    def log_artifact(self, path: Path) -> None:
        """Keep a copy of a file or folder with the run."""
        if not self._reach(lambda store, run: store.client.log_artifact(run, str(path))):
            self.lost.append(f"artifact {path}")

    def end(self, status: str, patience: float = 0.0) -> bool:
        """Send what is kept and end the run, trying for ``patience`` seconds; False where the store stays away."""
        deadline = time.monotonic() + patience
        while not self._reach(lambda store, run: store.client.set_terminated(run, status)):
            if self.id is None or time.monotonic() >= deadline:
                return False
            time.sleep(1)
        return True

    def _reach(self, send: Callable[[Store, str], object]) -> bool:
        """Send what is kept, then what is new; False where the store is away, or refuses it."""
        if self.store is None or self.id is None:
            return False
        try:
            require_answer(self.store.uri)
            log_points(self.store, self.id, self.kept)
            self.kept.clear()
            send(self.store, self.id)
        except store_errors() as error:
            self.reason = error.what if isinstance(error, StoreError) else first_line(error)
            self.next_attempt = time.monotonic() + PAUSE_SECONDS
            return False
        return True


@contextmanager
def stage_run(
    stage: str, params: Mapping[str, Any], record: Path, required: bool = True, say: Say = print
) -> Iterator[StageRun]:
    """Open the run of ``stage`` in the pipeline run that all ``params`` name; write ``record`` when it ends well.

    The run ends FINISHED, or KILLED on KeyboardInterrupt and SystemExit, or FAILED on any other exception, which goes
    on; the pipeline run then ends with it. A run of the same stage that a killed process left RUNNING ends KILLED.
    StoreError, before the block, where the store is away and ``required``. One that goes away later ends no work: then,
    and where it is not required, ``record`` keeps the points for ``finish_pipeline``, and ``say`` is told.
    """
    run, pipeline = _begin(stage, params, required, say)
    began, started = time.time(), time.monotonic()
    try:
        yield run
        seconds = round(time.monotonic() - started, 3)
        done = run.end("FINISHED", LAST_SECONDS if required else 0.0)
        about = {"stage": stage, "run_id": run.id, "pipeline_run_id": pipeline, "seconds": seconds}
        write_json(record, about if done else {**about, "unlogged": _unlogged(run, began)})
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED"
        with suppress(Exception):  # what went wrong in the stage is what its reader must see
            if run.store is not None and run.end(status):
                run.store.client.set_terminated(pipeline, status)
        raise
    if not done or run.lost:
        say(f"{stage} is not logged, because {run.reason}: {_left(run, record)}")


def _begin(stage: str, params: Mapping[str, Any], required: bool, say: Say) -> tuple[StageRun, str | None]:
    try:
        with reaching():
            store, pipeline = open_store(), pipeline_run(params)
            nested = f"tags.`{PARENT}` = '{pipeline}' and tags.`{STAGE}` = '{stage}' and status = 'RUNNING'"
            for dead in runs_where(store, nested):
                store.client.set_terminated(dead.info.run_id, "KILLED")
            close_dead(store)
            store.client.update_run(pipeline, "RUNNING")
            return StageRun(create_run(store, stage, {PARENT: pipeline, STAGE: stage, PROCESS: _us()}), store), pipeline
    except StoreError as gone:
        if required:
            raise StoreError(gone.what, f"{gone.remedy}, {WITHOUT}") from None
        say(f"{gone.what}: {stage} runs without it, as tracking.required is false")
        return StageRun(None, None, reason=gone.what), None


def close_dead(store: Store) -> None:
    """End as KILLED what processes of this machine that are gone left RUNNING: stage runs, and their pipeline runs."""
    ours = f"status = 'RUNNING' and tags.`{PROCESS}` LIKE '{socket.gethostname()}:%'"
    for run in runs_where(store, ours):
        pid, began = run.data.tags[PROCESS].rsplit(":", 2)[1:]
        if not _lives(int(pid), int(began)):
            store.client.set_terminated(run.info.run_id, "KILLED")
            pipeline = run.data.tags[PARENT]
            if not runs_where(store, f"status = 'RUNNING' and tags.`{PARENT}` = '{pipeline}'"):
                store.client.set_terminated(pipeline, "KILLED")


def _us() -> str:
    """Name this process for as long as it lives: a process id alone is given to others later."""
    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.0f}"


def _lives(pid: int, began: int) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - began) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _unlogged(run: StageRun, began: float) -> dict[str, Any]:
    return {"started": int(began * 1000), "points": run.kept}


def _left(run: StageRun, record: Path) -> str:
    """Say what is not in the store, and how it gets there."""
    kept = f"{len(run.kept)} metric points are kept in {record}, from where the stage register logs them"
    return "; ".join([kept, *(f"the {item} is lost" for item in run.lost)])
