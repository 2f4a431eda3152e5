"""Run the pipeline by DVC: in the working tree, or as an experiment in a folder of its own if it did not run yet."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from effir.errors import EffirError
from effir.evaluation.variant import Variant
from effir.lab.dvc_runs import experiment_named, read_experiment
from effir.lab.settings import Value, assignment, changed_params
from effir.params import Scalar

# DVC in a process that ends with this one: a killed sweep leaves no experiment running.
CHILD = "import sys; from effir.process import die_with_parent as d; d(); from dvc.cli import main; sys.exit(main())"
POLL_SECONDS = 0.5
WORKSPACES = Path(".dvc/tmp/exps/standalone")
LOCKS, TORN_SECONDS = (Path(".dvc/tmp/rwlock"), Path("dvc.lock")), 2.0  # DVC empties them and writes them at once


class TrialError(EffirError):
    """The pipeline failed with a trial's settings."""


def run_trial(
    name: str, settings: Mapping[str, Value], params: Mapping[str, Scalar], log: Path, tell: Callable[[str], None]
) -> Variant:
    """Run the pipeline as the DVC experiment ``name`` with ``settings`` over ``params``, and return its metrics.

    An existing experiment with that name is read instead. ``params`` are params.yaml's, flat. DVC's output goes to
    ``log``; ``tell`` gets the name of the running stage. TrialError if the pipeline fails; EffirError if the existing
    experiment has other params, or another process runs it.
    """
    if experiment_named(name) is None:
        options = [part for key, value in settings.items() for part in ("--set-param", assignment(key, value))]
        command = ["exp", "run", "--temp", "--name", name, *options]
        with _locked(name, log):
            _remove_workspaces(name)
            with log.open("wb") as output, _dvc(*command, stdout=output, stderr=subprocess.STDOUT) as dvc:
                while dvc.poll() is None:
                    stages = re.findall(r"Running stage '([^']+)'", log.read_text(encoding="utf-8", errors="replace"))
                    tell(stages[-1] if stages else "starting")
                    time.sleep(POLL_SECONDS)
    found = experiment_named(name)
    if found is None:
        said = re.findall(r"^(?:Error|ERROR): (.*)$", log.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        reason = said[0] if said else "DVC printed no error"  # the stage's own message comes first
        raise TrialError(f"trial {name} failed ({reason}): read {log}")
    trial = read_experiment(found)
    if changed := changed_params(trial.params, settings, params):
        raise EffirError(
            f"the experiment {name} exists with {changed}: restore that value, remove the experiment by "
            f"`dvc exp remove {name}`, or choose another name"
        )
    return trial


def repro(to_stderr: bool) -> None:
    """Run the pipeline in the working tree; EffirError where a stage fails, whose own message stands above."""
    beside = os.path.dirname(sys.executable)  # stages run `python`, which must be this one
    env = {**os.environ, "PATH": os.pathsep.join([beside, os.environ.get("PATH", "")])}
    with _dvc("repro", env=env, stdout=sys.stderr if to_stderr else None) as dvc:
        failed = dvc.wait()
    if failed:
        raise EffirError(
            "the pipeline stopped, its message stands above: correct that and repeat this command. Finished stages do "
            "not run again"
        )


def uncached_stages() -> list[str]:
    """Name the stages in dvc.lock whose outputs DVC's cache lacks; every experiment would run them again.

    DVC looks for the outputs that dvc.lock names, and if they are missing it does not ask its run cache (DVC 3,
    ``StageCache.restore``). This happens in a clone in which the pipeline has not run yet.
    """
    from dvc.repo import Repo

    with Repo() as repo:
        kept = {stage.addressing: [out for out in stage.outs if out.use_cache] for stage in repo.index.stages}
        locked = {name: outs for name, outs in kept.items() if all(out.hash_info for out in outs)}
        return [name for name, outs in locked.items() if any(out.changed_cache() for out in outs)]


def remove_torn_locks() -> None:
    """Remove a lock file that a killed DVC left empty: every later one would refuse to run. DVC writes them anew."""
    for path in LOCKS:
        with suppress(FileNotFoundError):
            found = path.stat()
            if not found.st_size and time.time() - found.st_mtime > TORN_SECONDS:
                path.unlink()


@contextmanager
def _dvc(*arguments: str, **settings: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """Run DVC's command line; it is terminated if the block raises."""
    remove_torn_locks()
    with subprocess.Popen([sys.executable, "-c", CHILD, *arguments], **settings) as dvc:
        try:
            yield dvc
        except BaseException:
            dvc.terminate()
            raise


@contextmanager
def _locked(name: str, log: Path) -> Iterator[None]:
    """Lock the trial for this process; the lock ends with the process."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EffirError(f"another process runs the trial {name}: wait until it ends") from None
        yield


def _remove_workspaces(name: str) -> None:
    """Remove what killed runs of an experiment left: DVC keeps their workspaces with all models."""
    for record in (WORKSPACES / "run").rglob("*.run"):
        try:
            made = json.loads(record.read_text(encoding="utf-8"))
        except ValueError:  # killed while DVC wrote it
            continue
        if made["name"] == name and Path(made["root_dir"]).parent == WORKSPACES.resolve():
            shutil.rmtree(made["root_dir"], ignore_errors=True)
