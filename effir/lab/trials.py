"""A trial as a DVC experiment in a folder of its own: run, or read where it has run already."""

import fcntl
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from effir.errors import EffirError
from effir.evaluation.variant import Variant
from effir.lab.dvc_runs import experiment_named, read_experiment
from effir.lab.overrides import assignment
from effir.lab.provenance_check import made_otherwise
from effir.lab.space import Value
from effir.params import Scalar

# DVC inside a process that ends with this one: a killed sweep leaves no experiment running behind its back.
CHILD = "import sys; from effir.process import die_with_parent as d; d(); from dvc.cli import main; sys.exit(main())"
POLL_SECONDS = 0.5
WORKSPACES = Path(".dvc/tmp/exps/standalone")


class TrialError(EffirError):
    """The pipeline failed with a trial's settings."""


def run_trial(
    name: str, settings: Mapping[str, Value], params: Mapping[str, Scalar], log: Path, tell: Callable[[str], None]
) -> Variant:
    """Run the pipeline as the DVC experiment ``name`` with ``settings`` over ``params``, and return its figures.

    An experiment of that name that is there already is read instead. ``params`` are params.yaml's, flat. DVC's output
    goes to ``log``; ``tell`` hears the stage that runs. Stages that an earlier trial ran with the same inputs come out
    of DVC's run cache. TrialError where the pipeline fails, EffirError where the experiment of that name was made
    otherwise, or is being made by another process.
    """
    if experiment_named(name) is None:
        options = [part for key, value in settings.items() for part in ("--set-param", assignment(key, value))]
        command = [sys.executable, "-c", CHILD, "exp", "run", "--temp", "--name", name, *options]
        with _alone(name, log):
            _clear(name)
            with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as dvc:
                _follow(dvc, log, tell)
    found = experiment_named(name)
    if found is None:
        raise TrialError(f"trial {name} failed ({_complaint(log)}): {log} says more")
    trial = read_experiment(found)
    if made := made_otherwise(trial.params, settings, params):
        raise EffirError(
            f"the experiment {name} was made with {made}: go back to that, remove it by `dvc exp remove {name}`, "
            "or choose another name"
        )
    return trial


def stages_made_anew() -> list[str]:
    """Name the stages of dvc.lock whose outputs DVC's cache lacks: every experiment would run them, and none remember.

    DVC looks for the outputs that dvc.lock names, and where they are away not into its run cache (DVC 3,
    ``StageCache.restore``). So it is in a clone in which the pipeline has not run yet.
    """
    from dvc.repo import Repo

    with Repo() as repo:
        kept = {stage.addressing: [out for out in stage.outs if out.use_cache] for stage in repo.index.stages}
        locked = {name: outs for name, outs in kept.items() if all(out.hash_info for out in outs)}
        return [name for name, outs in locked.items() if any(out.changed_cache() for out in outs)]


@contextmanager
def _alone(name: str, log: Path) -> Iterator[None]:
    """Hold the trial against other processes for as long as this one lives."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EffirError(f"another process runs the trial {name}: wait for its end") from None
        yield


def _clear(name: str) -> None:
    """Remove the workspaces of earlier attempts at an experiment: of one that is killed, DVC keeps all its models."""
    for record in (WORKSPACES / "run").rglob("*.run"):
        try:
            made = json.loads(record.read_text(encoding="utf-8"))
        except ValueError:  # killed while DVC wrote it
            continue
        if made["name"] == name and Path(made["root_dir"]).parent == WORKSPACES.resolve():
            shutil.rmtree(made["root_dir"], ignore_errors=True)


def _follow(dvc: subprocess.Popen[bytes], log: Path, tell: Callable[[str], None]) -> None:
    try:
        while dvc.poll() is None:
            stages = re.findall(r"Running stage '([^']+)'", log.read_text(encoding="utf-8", errors="replace"))
            tell(stages[-1] if stages else "starting")
            time.sleep(POLL_SECONDS)
    except BaseException:
        dvc.terminate()
        dvc.wait()
        raise


def _complaint(log: Path) -> str:
    """Find what a person must know of a failed run: the stage's own sentence, or else DVC's."""
    text = log.read_text(encoding="utf-8", errors="replace")
    said = re.findall(r"^(?:Error|ERROR): (.*)$", text, re.MULTILINE)
    return str(said[0]) if said else "DVC said nothing"
