"""The stages of the pipeline under fire, each in a fork, in a tiny clone in which all of them have run once."""

import importlib
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from effir.files import settled, sha256_of
from tests.chaos.fork import run
from tests.chaos.scenario import Scenario, must
from tests.pipeline.conftest import fresh_clone

# In the order of dvc.yaml. Without measure_cost, which measures times, and what draws or registers by them.
ORDER = """download download_eval baselines teacher_scores finetune_full self_teacher_scores analyze prune_depth distill
score_channels prune_width finetune export index evaluate""".split()
OF_A_SET = {"download_eval", "baselines", "index", "evaluate"}


def run_stage(stage: str) -> None:
    """Run the program of a stage in the current folder."""
    main = importlib.import_module(f"stages.{stage}").main
    main(["tiny"] if stage in OF_A_SET else [], prog_name=stage)


def outputs(stage: str) -> list[Path]:
    """Name what a stage leaves, but for its record, which holds times."""
    body = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    body = body.get("do", body)
    listed = [each for kind in ("outs", "metrics", "plots") for each in body.get(kind, ())]
    names = [next(iter(each)) if isinstance(each, dict) else each for each in listed]
    return [Path(name.replace("${item}", "tiny")) for name in names if not name.startswith("runs/")]


def tiny_clone(work: Path) -> Path:
    """Make a clone in which every stage has run once, without DVC; it is kept in ``work``."""
    home = work / "clone"
    if not (home / "done").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        clone = fresh_clone(home).root
        for stage in ORDER:
            must(run(partial(run_stage, stage), clone))
        (home / "done").touch()
    return home / "clone"


class Stage(Scenario):
    """One stage, with its old outputs in place; every second kill finds them removed, as DVC leaves them."""

    def __init__(self, stage: str, work: Path, removed: bool) -> None:
        self.stage, self.work, self.removed = stage, work, removed
        self.name = f"stage {stage}{', outputs removed' if removed else ''}"

    def prepare(self, root: Path) -> None:
        shutil.copytree(tiny_clone(self.work), root, dirs_exist_ok=True, symlinks=True)
        for path in outputs(self.stage) if self.removed else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def act(self) -> None:
        run_stage(self.stage)

    def result(self) -> Any:
        found = {str(path): settled(path) for path in outputs(self.stage)}
        return {name: sha256_of(path) if path.exists() else None for name, path in found.items()}

    def allowed(self, before: Any, after: Any, now: Any) -> bool:
        """Every output is the old one or the new one, and whole."""
        return all(value in (before[name], after[name]) for name, value in now.items())


def stage_scenarios(work: Path) -> list[Scenario]:
    """List the scenarios of all stages; nothing is made yet."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    return [Stage(stage, work, removed) for stage in ORDER for removed in (False, True)]
