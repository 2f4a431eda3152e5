"""What every stage program shares: checked params, an MLflow run, one-sentence errors, and dying with its parent."""

import gc
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import yaml

from effir.errors import EffirError
from effir.params import Params, load_params
from effir.process import die_with_parent
from effir.tracking import reaching
from effir.tracking.server import StoreError
from effir.tracking.stage_run import WITHOUT, StageRun, stage_run

RUNS = Path("runs")


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
    with _params() as params:
        required, say = params.tracking.required, partial(click.echo, err=True)
        with stage_run(name, logged(params), record_of(name), required, say) as run:
            _collect()
            yield Stage(params, run)


@contextmanager
def tracking(required: bool, missing: str) -> Iterator[None]:
    """Run a body that does nothing but log; where the store is away and not required, say what is ``missing``."""
    try:
        with reaching():
            yield
    except StoreError as gone:
        if required:
            raise StoreError(gone.what, f"{gone.remedy}, {WITHOUT}") from None
        click.echo(f"{gone.what}: {missing}", err=True)


def logged(params: Params) -> dict[str, Any]:
    """All params that say what is made, as they are logged; whether logging is required is none of them."""
    return params.model_dump(by_alias=True, mode="json", exclude={"tracking"})


@contextmanager
def checked() -> Iterator[Params]:
    """Run a body with checked params and no MLflow run of its own; errors that a person can mend exit with 2."""
    with _params() as params:
        _collect()
        yield params


@contextmanager
def _params() -> Iterator[Params]:
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
    trained = ["download", "teach", "tune", "teach_own", "analyze", "prune_depth", "restore", "prune_width", "finetune"]
    single = [*trained, "export", "measure_cost"]
    return [*single, *(f"{stage}@{name}" for name in sets for stage in ("download_eval", "bm25", "index", "evaluate"))]


def locked_hashes() -> dict[str, str]:
    """DVC's hash of every output, path to md5, as dvc.lock has them."""
    stages = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def _collect() -> None:
    """Turn the garbage collector on where stages/__init__.py turned it off; what the imports left is not looked at."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _leave(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)
