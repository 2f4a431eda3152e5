"""What every stage program shares: checked params, an MLflow run, one-sentence errors, and its end with the parent."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import yaml

from effir.lab.pipeline import record_of, refusing
from effir.lab.progress import progress_of, remember
from effir.params import Params, load_params
from effir.process import die_with_parent
from effir.tracking.stage_run import WITHOUT, StageRun, stage_run
from effir.tracking.store import StoreError, reaching
from stages.preflight import check_files, check_settings


@dataclass(frozen=True)
class Stage:
    """What a stage works with."""

    params: Params
    run: StageRun

    def log(self, step: int, values: dict[str, float]) -> None:
        """Log the metrics of a training step at once."""
        self.run.log_metrics(values, step)


@contextmanager
def running(name: str) -> Iterator[Stage]:
    """Run a stage's body: ``name`` is the stage in dvc.yaml, its MLflow run is recorded in ``runs/<name>.json``."""
    with checked() as params:
        check_files(name, params)
        required, say = params.tracking.required, partial(click.echo, err=True)
        settings = logged(params)
        if line := progress_of(name, settings):
            say(line)
        started = time.monotonic()
        with stage_run(name, settings, record_of(name), required, say) as run:
            yield Stage(params, run)
        remember(name, settings, round(time.monotonic() - started, 1))


@contextmanager
def checked() -> Iterator[Params]:
    """Run a body with checked params and no MLflow run of its own; errors that a person can correct exit with 2."""
    die_with_parent()
    signal.signal(signal.SIGTERM, _leave)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    show_decisions()
    with refusing():
        params = load_params()
        check_settings(params)
        yield params


@contextmanager
def tracking(required: bool, missing: str) -> Iterator[None]:
    """Run a body that only logs; if the store is away and not required, say what is ``missing``."""
    try:
        with reaching():
            yield
    except StoreError as gone:
        if required:
            raise StoreError(gone.what, f"{gone.remedy}, {WITHOUT}") from None
        click.echo(f"{gone.what}: {missing}", err=True)


def logged(params: Params) -> dict[str, Any]:
    """Return the params as they are logged: all but ``tracking``, which changes no artifact."""
    return params.model_dump(by_alias=True, mode="json", exclude={"tracking"})


def locked_hashes() -> dict[str, str]:
    """Return DVC's hash of every output, path to md5, from dvc.lock."""
    stages = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def show_decisions() -> None:
    """Show what effir decides about this machine, such as what ``auto`` computes in."""
    log = logging.getLogger("effir")
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)


def _leave(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)
