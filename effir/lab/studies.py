"""A study: a committed list of pipeline runs that answer one question. Its results are JSON, one row a run."""

import datetime
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from effir.errors import EffirError
from effir.evaluation.variant import Variant
from effir.files import read_json, write_json
from effir.lab.comparison import SEED
from effir.lab.dvc_runs import experiment_named
from effir.lab.settings import LOCAL, Value, changed_params
from effir.lab.trials import run_trial, uncached_stages
from effir.params import Scalar

KEYS = {"question", "settings", "compare_with", "runs", "seeds"}
Run = Callable[[str, Mapping[str, Value], Path], Variant]


@dataclass(frozen=True)
class Study:
    """A question and the runs that answer it: each name with the keys of params.yaml that it sets.

    The report tests all runs against the first, and against ``compare_with``; ``<run>-seed1`` has another seed.
    """

    name: str
    question: str
    runs: Mapping[str, Mapping[str, Value]]
    compare_with: str | None = None


def read_study(path: Path) -> Study:
    """Read ``studies/<name>.yaml``; EffirError names what is wrong with it."""
    if not path.is_file():
        raise EffirError(f"{path} is missing: name a file of studies/")
    try:
        plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise EffirError(f"{path} is not YAML ({' '.join(str(error).split())}): correct it") from None
    if not isinstance(plan, dict) or not isinstance(plan.get("runs"), dict) or not plan["runs"]:
        raise EffirError(f"{path} lists no runs: write `runs:`, and below it a name and the keys it sets on each line")
    for mistake in _mistakes(plan, plan["runs"]):
        raise EffirError(f"{path}: {mistake}")
    runs = {name: {**(plan.get("settings") or {}), **(own or {})} for name, own in plan["runs"].items()}
    seeds: dict[str, int] = plan.get("seeds") or {}
    # The runs of the seeds after 0: all runs of seed 1, then all of seed 2.
    order = [(i, name) for i in range(1, max(seeds.values(), default=0)) for name in seeds if i < seeds[name]]
    seeded = {f"{name}-seed{i}": {**runs[name], SEED: i} for i, name in order}
    return Study(path.stem, str(plan.get("question", "")), {**runs, **seeded}, plan.get("compare_with"))


def _mistakes(plan: Mapping[str, Any], runs: Mapping[str, Any]) -> Iterator[str]:
    shared, seeds, other = plan.get("settings"), plan.get("seeds") or {}, plan.get("compare_with")
    for name, own in {"settings": shared, **runs}.items():
        if not isinstance(own, dict | None):
            yield f"{name!r} has no keys: write them as {{prune.depth: 3}}, or {{}} for no keys"
    for key in sorted(plan.keys() - KEYS):
        yield f"{key!r} is not a key of a study: use {', '.join(sorted(KEYS))}"
    if other not in (None, *runs):
        yield f"compare_with is {other!r}, which is not one of the runs: name one of {', '.join(runs)}"
    if not isinstance(seeds, dict) or not all(type(n) is int and n > 0 for n in seeds.values()):
        yield "seeds must be a number of seeds for a run, as {full: 3}"
        return
    for name in sorted(seeds.keys() - runs.keys()):
        yield f"seeds has {name!r}, which is not one of the runs: name one of {', '.join(runs)}"
    for name in sorted(name for name in seeds if SEED in {**(shared or {}), **(runs[name] or {})}):
        yield f"{name!r} has seeds and sets {SEED}: remove one of them"


def run_study(
    study: Study, results: Path, folder: Path, params: Mapping[str, Scalar], run: Run, only: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Run what has no row in ``results`` yet, write each row at once, and return all rows in the study's order.

    Rows that the study no longer lists are kept after the others. ``only`` names the runs to make now, if not all.
    ``params`` are params.yaml's, flat: rows made with others are refused, except for keys that the study sets.
    ``folder`` keeps DVC's logs. EffirError if a row has other params, a run fails, or ``only`` names an unknown run.
    """
    if unknown := sorted(set(only) - study.runs.keys()):
        raise EffirError(f"{study.name} has no run {unknown[0]!r}: name one of {', '.join(study.runs)}")
    rows = {row["name"]: row for row in (read_json(results)["rows"] if results.exists() else ())}
    for name, settings in study.runs.items():
        if name in rows:
            if changed := changed_params(rows[name]["params"], settings, params):
                raise EffirError(
                    f"{results} has {name!r} with {changed}: restore that value, or remove the row and run "
                    f"`dvc exp remove {rows[name]['experiment']}`"
                )
            rows[name] |= {"settings": dict(settings)}  # params.yaml may have changed since, and the study with it
        elif name in (only or study.runs):
            experiment = f"{study.name}-{name}"
            rows[name] = _row(name, settings, run(experiment, settings, folder / f"{experiment}.log"))
            _written(results, study, rows)
    return _written(results, study, rows)  # the question may have changed


def in_experiments(say: Callable[[str], None], local: Mapping[str, Value], params: Mapping[str, Scalar]) -> Run:
    """Return a function that runs the pipeline as a DVC experiment with ``params``, or reads an existing one.

    ``local`` says where this machine has its data; results do not keep it. EffirError for other keys.
    """
    if foreign := [key for key in local if not key.startswith(LOCAL)]:
        raise EffirError(f"-S {foreign[0]} would change the metrics of a study: write it into the study")
    unkept = {"register.version": "false", **local}
    made: list[str] = []

    def run(name: str, settings: Mapping[str, Value], log: Path) -> Variant:
        if experiment_named(name) is None:
            if not made and (uncached := uncached_stages()):
                say(
                    f"DVC's cache lacks outputs of {', '.join(uncached)}, which dvc.lock lists: every run makes them "
                    "again. Stop this and run `make repro` once"
                )
            made.append(name)
        return run_trial(name, {**settings, **unkept}, params, log, lambda stage: say(f"{name}: {stage}"))

    return run


def _written(results: Path, study: Study, rows: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Write all rows in the study's order, and return them."""
    ordered = [rows[name] for name in study.runs if name in rows]
    ordered += [row for name, row in rows.items() if name not in study.runs]
    asked = {"question": study.question, "baseline": next(iter(study.runs)), "compare_with": study.compare_with}
    write_json(results, {**asked, "rows": ordered})
    return ordered


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
