"""A study: a committed list of pipeline runs that answer one question; their figures as JSON, a row as each lands."""

import datetime
import hashlib
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from effir.comparison import Scalar, Variant, same_text
from effir.errors import EffirError
from effir.experiments import experiment_named
from effir.files import project_root, read_json, write_json, writing
from effir.sweeping.space import Value
from effir.sweeping.trials import flat_settings, run_trial

KEYS = {"question", "settings", "start", "rival", "runs"}
HEALED = "models/healed"
START = "$start"
"""As a value of a setting: the folder of the model that the runs start from, as their teacher for instance."""
LOCAL = ("data.mirror", "data.collections", "tracking.", "register.")
"""Keys of params.yaml that do not decide what a run finds."""
NEUTRAL = {"finetune.examples": 0, "finetune.miner": "bm25"}
"""Keys that came after the first studies, and the value that does what was done before them."""

Run = Callable[[str, Mapping[str, Value], Path], Variant]
Fetch = Callable[[str, Path], None]


@dataclass(frozen=True)
class Study:
    """What is asked, and by which runs: experiment to the keys of params.yaml that it sets.

    ``start``, where it is given, names the first run, whose healed model is every other run's base model but where the
    run says ``model.base: null``. ``rival`` names the run that the report tests the others against, beside the first.
    """

    name: str
    question: str
    runs: Mapping[str, Mapping[str, Value]]
    start: str | None = None
    rival: str | None = None


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
    if start is not None and start != next(iter(plan["runs"])):
        raise EffirError(f"{path} starts from {start!r}, which is not the first of its runs")
    runs = {name: {**({} if name == start else shared), **(own or {})} for name, own in plan["runs"].items()}
    if (rival := plan.get("rival")) not in (None, *runs):
        raise EffirError(f"{path} has the rival {rival!r}, which is none of its runs: {', '.join(runs)}")
    return Study(path.stem, str(plan.get("question", "")), runs, start, rival)


def run_study(
    study: Study, results: Path, folder: Path, params: Mapping[str, Scalar], run: Run, fetch: Fetch
) -> list[dict[str, Any]]:
    """Run what has no row in ``results`` yet, write the row at once, and return all rows in the study's order.

    ``params`` are params.yaml's, flat: rows that were made with others, beside what a study sets, are not mixed with
    new ones. ``folder`` keeps DVC's logs and the model that runs start from. A study that was killed goes on with the
    run that it lost. EffirError where a row was made otherwise than it would be now, or a run fails.
    """
    rows = {row["name"]: row for row in _known(results)}
    for name, settings in study.runs.items():
        experiment, own = f"{study.name}-{name}", {key: value for key, value in settings.items() if value is not None}
        if study.start not in (None, name):
            place = _start(study, rows[str(study.start)], folder).relative_to(project_root()).as_posix()
            both = {"model.base": START, **settings}
            own = {key: place if value == START else value for key, value in both.items() if value is not None}
        if name in rows:
            _agree(rows[name], own, params, results)
            continue
        if study.start not in (None, name):
            fetch(f"{study.name}-{study.start}", _start(study, rows[str(study.start)], folder))
        rows[name] = _row(name, own, run(experiment, own, folder / f"{experiment}.log"))
        _write(results, study, rows)
    _write(results, study, rows)  # what the study asks may have changed, and which runs it has
    return _ordered(study, rows)


def _start(study: Study, row: Mapping[str, Any], folder: Path) -> Path:
    """Name the folder of the model that runs start from: by the very run that made it."""
    made = hashlib.sha256(row["source"].encode()).hexdigest()[:10]
    return folder / f"{study.name}-{study.start}-{made}"


def _agree(row: Mapping[str, Any], settings: Mapping[str, Value], params: Mapping[str, Scalar], results: Path) -> None:
    """Refuse a row that was made by other params than its run would be made by now."""
    made, now = {**NEUTRAL, **row["params"]}, {**params, **flat_settings(settings)}
    other = [key for key in now if not key.startswith(LOCAL) and same_text(made.get(key)) != same_text(now[key])]
    if other:
        said = ", ".join(f"{key}={made.get(key)}, now {now[key]}" for key in other)
        raise EffirError(
            f"{results} has {row['name']!r}, made with {said}: go back to that, or remove the row and run "
            f"`dvc exp remove {row['experiment']}`"
        )


def in_experiments(say: Callable[[str], None], local: Mapping[str, Value]) -> Run:
    """Return what runs the pipeline as a DVC experiment, or reads the one of that name.

    ``local`` are settings that say where this machine has its data: results do not keep them. EffirError for others.
    """
    if foreign := [key for key in local if not key.startswith(LOCAL)]:
        raise EffirError(f"-S {foreign[0]} would change what a study finds: write it into the study")
    unkept = {"register.version": "false", **local}

    def run(name: str, settings: Mapping[str, Value], log: Path) -> Variant:
        return run_trial(name, {**settings, **unkept}, log, lambda stage: say(f"{name}: {stage}"))

    return run


def fetch_healed(experiment: str, into: Path) -> None:
    """Take an experiment's healed model out of DVC's cache, once."""
    found = experiment_named(experiment)
    if found is None:
        raise EffirError(f"runs start from the experiment {experiment}, which is gone: remove its row and run again")
    if not into.exists():
        with writing(into) as draft:
            command = [sys.executable, "-m", "dvc", "get", ".", HEALED, "--rev", found.commit, "--out", str(draft)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise EffirError(
                    f"{HEALED} of {experiment} is not in DVC's cache: remove its row, run "
                    f"`dvc exp remove {experiment}` and this again"
                )


def _known(results: Path) -> list[dict[str, Any]]:
    return list(read_json(results, made_by="report")["rows"]) if results.exists() else []


def _ordered(study: Study, rows: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [rows[name] for name in study.runs if name in rows]


def _write(results: Path, study: Study, rows: Mapping[str, dict[str, Any]]) -> None:
    write_json(results, {"question": study.question, "rival": study.rival, "rows": _ordered(study, rows)})


def _row(name: str, settings: Mapping[str, Value], found: Variant) -> dict[str, Any]:
    return {
        "name": name,
        "settings": dict(settings),
        "experiment": found.name,
        "source": found.source,
        "date": datetime.date.today().isoformat(),
        "quality": {one: dict(figures) for one, figures in found.quality.items()},
        "scores": {one: {q: round(s, 4) for q, s in scores.items()} for one, scores in found.scores.items()},
        "cost": dict(found.cost),
        "layers": dict(found.layers),
        "data": dict(found.data),
        "params": {key: value for key, value in found.params.items() if not key.startswith(LOCAL)},
    }
