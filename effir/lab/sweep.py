"""The sweep itself: draw a trial, run it unhealed, give it up or heal it, remember; it may be killed at any moment."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from effir.errors import EffirError
from effir.evaluation.variant import Variant
from effir.lab.space import Value
from effir.lab.sweep_state import Drawn, Plan, Study, Trial
from effir.lab.target import Result, best, hopeless
from effir.lab.trials import TrialError, run_trial
from effir.model.shape import ModelShape
from effir.tracking import open_store

Run = Callable[[str, Mapping[str, Value]], Variant]

UNHEALED = {"finetune.steps": 0}
NO_VERSION = {"register.version": "false"}
FULL_SIZE: Mapping[str, Value] = {"prune.depth": 0, "prune.width": 1.0}


@dataclass(frozen=True)
class Outcome:
    """All trials, and the one that is best among those that meet the target.

    ``registered`` is the experiment that registered the best one; ``reference`` the full-size model's nDCG@10 where
    the target is a share of it.
    """

    trials: list[Trial]
    best: Trial | None
    registered: str | None
    reference: float | None


def sweep(plan: Plan, shape: ModelShape, folder: Path) -> Outcome:
    """Run the trials of ``plan`` that have not run, and the best once more, which registers it.

    ``shape`` is the base model's. What is known lies in ``folder``: a sweep that was stopped or killed goes on where it
    stopped. Trials are the DVC experiments ``<name>-1``, ``<name>-2``, …, and before them the same with ``-unhealed``;
    none registers a version, but ``<name>-2-best`` does where the second is the best. EffirError where the folder knows
    another plan of this name, or DVC an experiment that was made otherwise; where no setting can meet the target; and
    where the pipeline fails before any trial has worked, or because the MLflow store is away.
    """
    study = Study(plan, shape, folder)
    with tqdm(total=plan.trials, desc=plan.name, unit="trial", initial=len(study.done())) as bar:
        run = _runner(plan, folder, bar)
        reference = _reference(plan, run)
        while len(study.done()) < plan.trials and (drawn := study.next()):
            outcome = _try(plan, drawn, study.done(), reference, run)
            study.record(drawn, outcome, reference)
            bar.update()
            bar.write(line(outcome), file=sys.stderr)  # what is printed is the result alone
        healed = [one for one in study.done() if one.result]
        winner = best(plan.target, [one.result for one in healed if one.result], reference)
        chosen = None if winner is None else healed[winner]
        registered = None if chosen is None else run(f"{chosen.experiment}-best", chosen.settings).name
    if not study.done():
        raise EffirError(
            "no setting that the sweep may try has a size within the target: widen it by --vary, or ask for less"
        )
    return Outcome(study.done(), chosen, registered, reference)


def line(trial: Trial) -> str:
    """Say in one line what became of a trial."""
    parts = [trial.experiment, *(f"{key}={value}" for key, value in trial.settings.items())]
    if trial.unhealed is not None:
        parts.append(f"unhealed {trial.unhealed:.3f}")
    if trial.result is not None:
        found = trial.result
        parts.append(f"healed {found.ndcg:.3f}  {found.parameters / 1e6:.1f} M  {found.speedup:.2f} times as fast")
        parts.append("; ".join(trial.misses) or "meets the target")
    return "  ".join([*parts, *([f"given up: {trial.given_up}"] if trial.given_up else [])])


def _runner(plan: Plan, folder: Path, bar: Any) -> Run:
    def run(name: str, settings: Mapping[str, Value]) -> Variant:
        log, asked = folder / plan.name / f"{name}.log", {**plan.fixed, **settings}
        return run_trial(name, asked, plan.params, log, lambda stage: bar.set_postfix_str(f"{name}: {stage}"))

    return run


def _reference(plan: Plan, run: Run) -> float | None:
    """Measure the full-size model, healed alike, where the target is a share of its quality."""
    return None if plan.target.max_loss is None else _ndcg(run(f"{plan.name}-full", {**FULL_SIZE, **NO_VERSION}))


def _try(plan: Plan, drawn: Drawn, done: list[Trial], reference: float | None, run: Run) -> Trial:
    """Run a trial unhealed, which costs little, and healed unless there is no hope for it."""
    target, unhealed, experiment, settings = plan.target, None, drawn.experiment, drawn.settings
    try:
        probe = run(f"{experiment}-unhealed", {**settings, **UNHEALED, **NO_VERSION})
        unhealed, cost = _ndcg(probe), _result(probe)
        if missed := target.cost_misses(cost.parameters, cost.speedup):
            return Trial(experiment, settings, unhealed, misses=missed, given_up="; ".join(missed))
        healed = [(one.unhealed, not one.misses) for one in done if one.result and one.unhealed is not None]
        if hopeless(target, unhealed, healed):
            return Trial(experiment, settings, unhealed, given_up="unhealed, it finds less than others did")
        result = _result(run(experiment, {**settings, **NO_VERSION}))
    except TrialError as error:
        if plan.params.get("tracking.required"):
            open_store()  # without one every trial fails within seconds, whatever its settings
        if not any(one.unhealed is not None for one in done):
            raise  # nothing has worked yet: other trials would fail alike
        return Trial(experiment, settings, unhealed, given_up=str(error))
    return Trial(experiment, settings, unhealed, result, target.misses(result, reference))


def _ndcg(variant: Variant) -> float:
    return next(iter(variant.quality.values()))["ndcg_at_10"]


def _result(variant: Variant) -> Result:
    cost = variant.cost
    return Result(_ndcg(variant), int(cost["parameters_without_embeddings"]), cost["document_speedup"])
