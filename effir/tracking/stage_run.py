"""The MLflow run of one stage: metrics are sent at once, and kept in the stage's record while the store is away."""

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
from effir.tracking.runs import PARENT, STAGE, Point, create_run, log_points, pipeline_run, points_of, runs_where
from effir.tracking.store import Store, StoreError, explained, open_store, quick, reaching, store_errors

PAUSE_SECONDS = 60.0  # between two attempts: waiting for a lost server takes at most a sixth of a training's time
PROCESS = "effir.process"
WITHOUT = "or set tracking.required: false to run without it"

Say = Callable[[str], object]


@dataclass
class StageRun:
    """The open MLflow run of one stage.

    ``id`` and ``store`` are None if the store was away from the start. ``kept`` are the points that were not sent yet,
    and ``reason`` says why.
    """

    id: str | None
    store: Store | None
    kept: list[Point] = field(default_factory=list)
    reason: str = ""
    next_attempt: float = 0.0

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a point to each metric, at training step ``step``; values that are not finite are left out.

        A store that is away stops no stage: the points are sent with a later one, or at the end.
        """
        self.kept += points_of(metrics, step or 0)
        if time.monotonic() >= self.next_attempt:
            with quick():
                self._send()

    def end(self, status: str, wait: bool = False) -> bool:
        """Send what is kept and end the run; False if the store is away. ``wait`` for one that restarts."""
        with quick(wait):
            return self._send(status)

    def _send(self, status: str = "") -> bool:
        if self.store is None or self.id is None:
            return False
        try:
            log_points(self.store, self.id, self.kept)
            self.kept.clear()
            if status:
                self.store.client.set_terminated(self.id, status)
        except store_errors() as error:
            self.reason = explained(self.store.uri, error).what
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
    Raises StoreError, before the block, if the store is away and ``required``. A store that goes away later ends no
    work: then, and if it is not required, ``record`` keeps the points for ``finish_pipeline``, and ``say`` is told.
    """
    run, pipeline = _begin(stage, params, required, say)
    began, started = time.time(), time.monotonic()
    try:
        yield run
        seconds = round(time.monotonic() - started, 3)
        done = run.end("FINISHED", wait=required)
        about = {"stage": stage, "run_id": run.id, "pipeline_run_id": pipeline, "seconds": seconds}
        unlogged = {} if done else {"unlogged": {"started": int(began * 1000), "points": run.kept}}
        write_json(record, about | unlogged)
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED"
        with suppress(Exception):  # the reader must see what went wrong in the stage
            if run.store is not None and run.end(status):
                run.store.client.set_terminated(pipeline, status)
        raise
    if not done:
        kept = f"{len(run.kept)} metric points are kept in {record}, and the stage register logs them later"
        say(f"{stage} is not logged, because {run.reason}: {kept}")


def _begin(stage: str, params: Mapping[str, Any], required: bool, say: Say) -> tuple[StageRun, str | None]:
    try:
        with reaching():
            store, pipeline = open_store(), pipeline_run(params)
            nested = f"tags.`{PARENT}` = '{pipeline}' and tags.`{STAGE}` = '{stage}' and status = 'RUNNING'"
            for dead in runs_where(store, nested):
                store.client.set_terminated(dead.info.run_id, "KILLED")
            close_dead(store)
            store.client.update_run(pipeline, "RUNNING")
            # With the start of the process: its id alone is given to another process later.
            ours = f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.0f}"
            return StageRun(create_run(store, stage, {PARENT: pipeline, STAGE: stage, PROCESS: ours}), store), pipeline
    except StoreError as gone:
        if required:
            raise StoreError(gone.what, f"{gone.remedy}, {WITHOUT}") from None
        say(f"{gone.what}: {stage} runs without it, because tracking.required is false")
        return StageRun(None, None, reason=gone.what), None


def close_dead(store: Store) -> None:
    """End as KILLED the stage runs, and their pipeline runs, that dead processes of this machine left RUNNING."""
    ours = f"status = 'RUNNING' and tags.`{PROCESS}` LIKE '{socket.gethostname()}:%'"
    for run in runs_where(store, ours):
        pid, began = run.data.tags[PROCESS].rsplit(":", 2)[1:]
        if not _lives(int(pid), int(began)):
            store.client.set_terminated(run.info.run_id, "KILLED")
            pipeline = run.data.tags[PARENT]
            if not runs_where(store, f"status = 'RUNNING' and tags.`{PARENT}` = '{pipeline}'"):
                store.client.set_terminated(pipeline, "KILLED")


def _lives(pid: int, began: int) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - began) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
