"""A study: a committed list of pipeline runs that answer one question; their figures as JSON, a row as each lands."""

import datetime
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from effir.errors import EffirError
from effir.evaluation.variant import Variant
from effir.files import read_json, write_json
from effir.lab.dvc_runs import experiment_named
from effir.lab.provenance_check import LOCAL, made_otherwise
from effir.lab.space import Value
from effir.lab.trials import run_trial, stages_made_anew
from effir.params import Scalar

KEYS = {"question", "settings", "rival", "runs", "seeds"}
SEED = "training.seed"
Run = Callable[[str, Mapping[str, Value], Path], Variant]


@dataclass(frozen=True)
class Study:
    """What is asked, and by which runs: experiment to the keys of params.yaml that it sets.

    ``rival`` names the run that the report tests the others against, beside the first. ``<run>-seed1`` is ``<run>``
    with another seed; the report makes one row of them.
    """

    name: str
    question: str
    runs: Mapping[str, Mapping[str, Value]]
    rival: str | None = None


def read_study(path: Path) -> Study:
    """Read ``studies/<name>.yaml``; EffirError names what is wrong with it."""
    if not path.is_file():
        raise EffirError(f"{path} is missing: name a file of studies/")
    try:
        plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise EffirError(f"{path} is not YAML ({' '.join(str(error).split())}): mend it") from None
    if not isinstance(plan, dict) or not isinstance(plan.get("runs"), dict) or not plan["runs"]:
        raise EffirError(f"{path} lists no runs: write `runs:` with a name and the keys it sets a line")
    if unknown := sorted(plan.keys() - KEYS):
        raise EffirError(f"{path} has the key {unknown[0]!r}: a study has {', '.join(sorted(KEYS))}")
    for name, own in {"settings": plan.get("settings"), **plan["runs"]}.items():
        if not isinstance(own, dict | None):
            raise EffirError(f"{path} has {name!r} with no keys: write them as {{prune.depth: 3}}, or {{}} for none")
    runs = {name: {**(plan.get("settings") or {}), **(own or {})} for name, own in plan["runs"].items()}
    if (rival := plan.get("rival")) not in (None, *runs):
        raise EffirError(f"{path} has the rival {rival!r}, which is none of its runs: name one of {', '.join(runs)}")
    return Study(path.stem, str(plan.get("question", "")), {**runs, **_seeded(runs, plan.get("seeds"), path)}, rival)


def _seeded(runs: Mapping[str, Mapping[str, Value]], seeds: object, path: Path) -> dict[str, dict[str, Value]]:
    """List the runs of other seeds than 0, all of one seed before the next."""
    if seeds is None:
        return {}
    if not isinstance(seeds, dict) or not all(type(n) is int and n > 0 for n in seeds.values()):
        raise EffirError(f"{path} has seeds that are no numbers: write below `seeds` a run and how many, as 3")
    if unknown := sorted(seeds.keys() - runs.keys()):
        raise EffirError(
            f"{path} has seeds of {unknown[0]!r}, which is none of its runs: name one of {', '.join(runs)}"
        )
    if set_already := sorted(name for name in seeds if SEED in runs[name]):
        raise EffirError(f"{path} sets {SEED} of {set_already[0]!r} and has seeds of it: leave one of the two out")
    order = range(1, max(seeds.values(), default=0))
    return {f"{name}-seed{i}": {**runs[name], SEED: i} for i in order for name, number in seeds.items() if i < number}


def run_study(
    study: Study, results: Path, folder: Path, params: Mapping[str, Scalar], run: Run, only: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Run what has no row in ``results`` yet, write the row at once, and return all rows in the study's order.

    A row that the study does not list stays, after those that it does: it took an hour, and only a hand removes it.

    ``only`` names the runs to make now, where not all are wanted.
    ``params`` are params.yaml's, flat: what was made with others, beside what a study sets, is not mixed with new rows.
    ``folder`` keeps DVC's logs. A study that was killed goes on with the run that it lost. EffirError where a row
    was made otherwise than it would be now, a run fails, or ``only`` names none of the study's.
    """
    if unknown := sorted(set(only) - study.runs.keys()):
        raise EffirError(f"{study.name} has no run {unknown[0]!r}: it has {', '.join(study.runs)}")
    rows = {row["name"]: row for row in _known(results)}
    for name, settings in study.runs.items():
        if name in rows:
            if made := made_otherwise(rows[name]["params"], settings, params):
                raise EffirError(
                    f"{results} has {name!r}, made with {made}: go back to that, or remove the row and run "
                    f"`dvc exp remove {rows[name]['experiment']}`"
                )
            rows[name] |= {"settings": dict(settings)}  # what makes it now: params.yaml may have changed since
        elif name in (only or study.runs):
            experiment = f"{study.name}-{name}"
            rows[name] = _row(name, settings, run(experiment, settings, folder / f"{experiment}.log"))
            _write(results, study, rows)
    _write(results, study, rows)  # what the study asks may have changed
    return _ordered(study, rows)


def in_experiments(say: Callable[[str], None], local: Mapping[str, Value], params: Mapping[str, Scalar]) -> Run:
    """Return what runs the pipeline as a DVC experiment with ``params``, or reads the one of that name.

    ``local`` are settings that say where this machine has its data: results do not keep them. EffirError for others.
    """
    if foreign := [key for key in local if not key.startswith(LOCAL)]:
        raise EffirError(f"-S {foreign[0]} would change what a study finds: write it into the study")
    unkept = {"register.version": "false", **local}
    made: list[str] = []

    def run(name: str, settings: Mapping[str, Value], log: Path) -> Variant:
        if experiment_named(name) is None:
            if not made and (anew := stages_made_anew()):
                say(
                    f"DVC's cache lacks what dvc.lock says of {', '.join(anew)}: every run makes it anew. "
                    "Stop this and run `make repro` once"
                )
            made.append(name)
        return run_trial(name, {**settings, **unkept}, params, log, lambda stage: say(f"{name}: {stage}"))

    return run


def _known(results: Path) -> list[dict[str, Any]]:
    return list(read_json(results)["rows"]) if results.exists() else []


def _ordered(study: Study, rows: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    listed = [rows[name] for name in study.runs if name in rows]
    return listed + [row for name, row in rows.items() if name not in study.runs]


def _write(results: Path, study: Study, rows: Mapping[str, dict[str, Any]]) -> None:
    asked = {"question": study.question, "baseline": next(iter(study.runs)), "rival": study.rival}
    write_json(results, {**asked, "rows": _ordered(study, rows)})


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
        "losses": {stage: [[step, round(loss, 4)] for step, loss in each] for stage, each in found.losses.items()},
        "data": dict(found.data),
        "params": {key: value for key, value in found.params.items() if not key.startswith(LOCAL)},
    }
