"""A study: a committed list of pipeline runs that answer one question; their figures as JSON, a row as each lands."""

import datetime
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from effir.comparison import Variant
from effir.errors import EffirError
from effir.experiments import experiment_named
from effir.files import project_root, read_json, write_json, writing
from effir.sweeping.space import Value
from effir.sweeping.trials import run_trial

KEYS = {"question", "settings", "start", "runs"}
HEALED = "models/healed"

Run = Callable[[str, Mapping[str, Value], Path], Variant]
Fetch = Callable[[str, Path], None]


@dataclass(frozen=True)
class Study:
    """What is asked, and by which runs: experiment to the keys of params.yaml that it sets.

    ``start``, where it is given, names the run whose healed model is every other run's base model.
    """

    name: str
    question: str
    runs: Mapping[str, Mapping[str, Value]]
    start: str | None = None


def read_study(path: Path) -> Study:
    """Read ``studies/<name>.yaml``; EffirError names what is wrong with it."""
    if not path.is_file():
        raise EffirError(f"{path} is missing: name a file of studies/")
    try:
        plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise EffirError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(plan, dict) or not isinstance(plan.get("runs"), dict) or not plan["runs"]:
        raise EffirError(f"{path} lists no runs: write `runs:` with a name and the keys it sets a line")
    if unknown := sorted(plan.keys() - KEYS):
        raise EffirError(f"{path} has the key {unknown[0]!r}: a study has {', '.join(sorted(KEYS))}")
    start, shared = plan.get("start"), plan.get("settings") or {}
    if start is not None and start not in plan["runs"]:
        raise EffirError(f"{path} starts from {start!r}, which is none of its runs")
    runs = {name: {**({} if name == start else shared), **(own or {})} for name, own in plan["runs"].items()}
    return Study(path.stem, str(plan.get("question", "")), runs, start)


def run_study(study: Study, results: Path, folder: Path, run: Run, fetch: Fetch) -> list[dict[str, Any]]:
    """Run what has no row in ``results`` yet, write the row at once, and return all rows in the study's order.

    ``folder`` keeps DVC's logs and the model that runs start from. A study that was killed goes on with the run that
    it lost. EffirError where a row was made with other settings, or a run fails.
    """
    rows = {row["name"]: row for row in _known(results)}
    for name, settings in study.runs.items():
        experiment, own = f"{study.name}-{name}", dict(settings)
        first = None if study.start in (None, name) else f"{study.name}-{study.start}"
        if first:
            own["model.base"] = (folder / first).relative_to(project_root()).as_posix()
        if name not in rows:
            if first:
                fetch(first, folder / first)
            rows[name] = _row(name, own, run(experiment, own, folder / f"{experiment}.log"))
            write_json(results, {"question": study.question, "rows": _ordered(study, rows)})
        elif rows[name]["settings"] != own:
            raise EffirError(f"{results} has {name!r} with other settings than the study: remove that row, run again")
    return _ordered(study, rows)


def in_experiments(say: Callable[[str], None]) -> Run:
    """Return what runs the pipeline as a DVC experiment, or reads the one of that name."""

    def run(name: str, settings: Mapping[str, Value], log: Path) -> Variant:
        return run_trial(name, {**settings, "register.version": "false"}, log, lambda stage: say(f"{name}: {stage}"))

    return run


def fetch_healed(experiment: str, into: Path) -> None:
    """Take an experiment's healed model out of DVC's cache, once."""
    found = experiment_named(experiment)
    if found is None:
        raise EffirError(f"runs start from the experiment {experiment}, which is gone: remove its row, run again")
    if not into.exists():
        with writing(into) as draft:
            command = [sys.executable, "-m", "dvc", "get", ".", HEALED, "--rev", found.commit, "--out", str(draft)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise EffirError(f"{HEALED} of {experiment} is not in DVC's cache: remove its row, run again")


def _known(results: Path) -> list[dict[str, Any]]:
    return list(read_json(results, made_by="report")["rows"]) if results.exists() else []


def _ordered(study: Study, rows: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [rows[name] for name in study.runs if name in rows]


def _row(name: str, settings: Mapping[str, Value], found: Variant) -> dict[str, Any]:
    return {
        "name": name,
        "settings": dict(settings),
        "experiment": found.name,
        "date": datetime.date.today().isoformat(),
        "quality": {one: dict(figures) for one, figures in found.quality.items()},
        "scores": {one: {q: round(s, 4) for q, s in scores.items()} for one, scores in found.scores.items()},
        "cost": dict(found.cost),
    }


def series(rows: Sequence[Mapping[str, Any]], x: str, by: str, of: str) -> dict[str, list[tuple[float, float]]]:
    """Group a study's rows into curves: the setting ``by`` names one, ``x`` is its abscissa, nDCG@10 on set ``of``.

    >>> rows = [{"settings": {"d": 2, "k": "a"}, "quality": {"s": {"ndcg_at_10": 0.5}}}]
    >>> series(rows, x="d", by="k", of="s")
    {'a': [(2, 0.5)]}
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if x in row["settings"] and by in row["settings"]:
            point = (row["settings"][x], row["quality"][of]["ndcg_at_10"])
            found.setdefault(str(row["settings"][by]), []).append(point)
    return {name: sorted(points) for name, points in found.items()}
