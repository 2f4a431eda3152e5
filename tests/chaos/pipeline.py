"""The whole pipeline by DVC under fire: `dvc repro` killed again and again, and two experiments at once."""

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


def calm(work: Path) -> tuple[dict[str, str], float]:
    """Run the pipeline undisturbed once: its hashes, and its seconds."""
    home = work / "pipeline/calm"
    kept = home / "seconds"
    if not kept.exists():
        shutil.rmtree(home, ignore_errors=True)
        project, began = fresh_clone(home), time.monotonic()
        project.dvc("repro")
        kept.write_text(str(time.monotonic() - began))
    environment = Project(home / "clone", {})
    return hashes(environment), float(kept.read_text())


def killed(work: Path, seed: int, count: int, done: set[int]) -> Iterator[Trial]:
    """Kill `dvc repro` ``count`` times at random moments, DVC alone or with its stage, then let it finish."""
    name = "dvc repro"
    if done >= set(range(count)):
        return
    wanted, seconds = calm(work)
    home = work / "pipeline/killed"
    shutil.rmtree(home, ignore_errors=True)
    project = fresh_clone(home)
    outcomes = list[str]()
    for number in range(count):
        draw = random.Random(f"{seed} {name} {number}")
        dvc = start(project, "repro")
        with suppress(subprocess.TimeoutExpired):
            dvc.wait(timeout=draw.uniform(2, max(20.0, 2 * seconds / count)))
        outcomes.append("finished first" if dvc.returncode is not None else "killed by the clock")
        if draw.random() < 0.5:
            dvc.kill()  # its stage must end by itself
            time.sleep(1.5)
        with suppress(ProcessLookupError):
            killpg(dvc.pid, signal.SIGKILL)
        dvc.wait()
    finished = project.run(sys.executable, "-m", "dvc", "repro")
    said = (home / "dvc.out").read_text(errors="replace") + finished.stdout
    fault = finished.stdout[-900:] if finished.returncode else ""
    if not fault and "Traceback" in said:
        fault = said[said.index("Traceback") :][:900]
    if not fault and (others := [path for path, md5 in wanted.items() if hashes(project).get(path) != md5]):
        fault = f"other bytes in {', '.join(others)}"
    for number, outcome in enumerate(outcomes):
        yield Trial(name, number, outcome, fault if number == len(outcomes) - 1 else "")


def two_experiments(work: Path, seed: int, count: int, done: set[int]) -> Iterator[Trial]:
    """Run two experiments of one project at once; each must leave what it leaves alone."""
    name = "two pipelines at once"
    for number in range(count):
        if number in done:
            continue
        wanted, _ = calm(work)
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
