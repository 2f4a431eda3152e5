"""What every stage program shares: checked params, an MLflow run, one-sentence errors, and dying with its parent."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import psutil
import yaml

from effir.errors import EffirError
from effir.params import Params, load_params
from effir.tracking.runs import StageRun, stage_run

RUNS = Path("runs")
SHELLS = {"sh", "bash", "dash", "zsh", "ash"}


@dataclass(frozen=True)
class Stage:
    """What a stage works with."""

    params: Params
    run: StageRun

    def log(self, step: int, values: dict[str, float]) -> None:
        """Log the loss live, a point a call."""
        self.run.log_metrics(values, step)


class Refusal(click.ClickException):
    """One sentence, no traceback, exit status 2."""

    exit_code = 2


@contextmanager
def running(name: str) -> Iterator[Stage]:
    """Run a stage's body: ``name`` is the stage in dvc.yaml, its MLflow run is recorded in ``runs/<name>.json``."""
    with checked() as params, stage_run(name, params.model_dump(by_alias=True, mode="json"), record_of(name)) as run:
        yield Stage(params, run)


@contextmanager
def checked() -> Iterator[Params]:
    """Run a body with checked params and no MLflow run of its own; errors that a person can mend exit with 2."""
    die_with_parent()
    signal.signal(signal.SIGTERM, _leave)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        yield load_params()
    except EffirError as error:
        raise Refusal(str(error)) from None


def record_of(stage: str) -> Path:
    """Name the file that holds the MLflow run of a stage: ``runs/index@apidocs.json``."""
    return RUNS / f"{stage}.json"


def stages_of(sets: Sequence[str]) -> list[str]:
    """Every stage that keeps a record, in the order in which they run."""
    single = ["download", "analyze", "prune_depth", "restore", "prune_width", "finetune", "measure_cost"]
    return [*single, *(f"{stage}@{name}" for name in sets for stage in ("download_eval", "bm25", "index", "evaluate"))]


def locked_hashes() -> dict[str, str]:
    """DVC's hash of every output, path to md5, as dvc.lock has them."""
    stages = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def die_with_parent(poll: float = 0.5) -> None:
    """End this process when the program that started it is gone, looking every ``poll`` seconds.

    A killed DVC leaves its stage alive, and the orphan would overwrite the outputs of the next run.
    """
    parent = _starter()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent, poll), daemon=True).start()


def _starter() -> psutil.Process | None:
    # DVC starts a stage through a shell, which outlives it: watch what is above the shells.
    above = psutil.Process().parents()
    return next((p for p in above if p.name() not in SHELLS), None)


def _watch(parent: psutil.Process, poll: float) -> None:
    while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
        time.sleep(poll)
    os._exit(128 + signal.SIGTERM)


def _leave(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)
