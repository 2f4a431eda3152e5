"""The whole pipeline by DVC under fire: `dvc repro` killed again and again, and two experiments at once."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from os import killpg
from pathlib import Path

import yaml

from tests.chaos.scenario import Trial
from tests.pipeline.conftest import Project, fresh_clone
from tests.pipeline.warm import warm_python

TIMED = ("metrics/cost.json", "reports/plots", "runs/")  # what differs from run to run: times, and what shows them


def hashes(project: Project) -> dict[str, str]:
    """Return DVC's hash of every output that is the same in every run."""
    stages = yaml.safe_load((project.root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    outs = [out for stage in stages.values() for out in stage.get("outs", [])]
    return {out["path"]: out["md5"] for out in outs if not out["path"].startswith(TIMED)}


def start(project: Project, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start DVC in a process group of its own."""
    with (project.root.parent / "dvc.out").open("ab") as output:
        command = [sys.executable, "-m", "dvc", *arguments]
        return subprocess.Popen(
            command, cwd=project.root, env=project.env, stdout=output, stderr=output, start_new_session=True
        )


def calm(work: Path) -> dict[str, str]:
    """Run the pipeline undisturbed once; its hashes."""
    home = work / "pipeline/calm"
    if not (home / "done").exists():
        shutil.rmtree(home, ignore_errors=True)
        fresh_clone(home).dvc("repro")
        (home / "done").touch()
    return hashes(Project(home / "clone", {}))


def killed(work: Path, seed: int, count: int, done: set[int]) -> Iterator[Trial]:
    """Kill `dvc repro` at random moments until it finishes between two of them, in clone after clone."""
    name = "dvc repro"
    wanted, home = calm(work), work / "pipeline/killed"
    shutil.rmtree(work / "pipeline/warm", ignore_errors=True)
    with warm_python(work / "pipeline/warm", dict(os.environ)) as python:
        number = max(done, default=-1) + 1
        while number < count:
            shutil.rmtree(home, ignore_errors=True)
            project, begun = fresh_clone(home).warmed(python), number
            while number < count and kill(project, random.Random(f"{seed} {name} {number}")):
                number += 1
            time.sleep(2.1)  # what `make repro` waits for before it takes an empty lock file for a torn one
            finished = project.run("make", "repro", "READY=")
            said = (home / "dvc.out").read_text(errors="replace") + finished.stdout
            fault = finished.stdout[-900:] if finished.returncode else ""
            if not fault and "Traceback" in said:
                fault = said[said.index("Traceback") :][:900]
            if not fault and (others := [path for path, md5 in wanted.items() if hashes(project).get(path) != md5]):
                fault = f"other bytes in {', '.join(others)}"
            for trial in range(begun, number):
                yield Trial(name, trial, "killed by the clock", fault if trial == number - 1 else "")


def kill(project: Project, draw: random.Random) -> bool:
    """Kill a `dvc repro`, DVC alone or with its stage; False if it finished first."""
    dvc = start(project, "repro")
    with suppress(subprocess.TimeoutExpired):
        dvc.wait(timeout=draw.uniform(1, 12))
    finished = dvc.returncode is not None
    if draw.random() < 0.5:
        dvc.kill()  # its stage must end by itself
        time.sleep(1.5)
    with suppress(ProcessLookupError):
        killpg(dvc.pid, signal.SIGKILL)
    dvc.wait()
    return not finished


def two_experiments(work: Path, seed: int, count: int, done: set[int]) -> Iterator[Trial]:
    """Run two experiments of one project at once; each must leave what it leaves alone."""
    name = "two pipelines at once"
    for number in range(count):
        if number in done:
            continue
        wanted = calm(work)
        home = work / "pipeline/two"
        shutil.rmtree(home, ignore_errors=True)
        project = fresh_clone(home)
        with (home / "dvc.out").open("wb"):
            pass
        pair = [start(project, "exp", "run", "--temp", "--name", each) for each in ("one", "two")]
        ends = [dvc.wait(timeout=3600) for dvc in pair]
        fault = "" if ends == [0, 0] else (home / "dvc.out").read_text(errors="replace")[-900:]
        for each in ("one", "two") if not fault else ():
            project.dvc("exp", "apply", each)
            if others := [path for path, md5 in wanted.items() if hashes(project).get(path) != md5]:
                fault = f"{each}: other bytes in {', '.join(others)}"
        yield Trial(name, number, "both finished" if ends == [0, 0] else "one failed", fault)
