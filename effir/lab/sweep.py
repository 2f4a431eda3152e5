"""Run a sweep: draw a trial, measure the model as it was cut, then fine-tune it or stop it. A kill loses one stage."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from effir.errors import EffirError
from effir.evaluation.variant import Variant
from effir.lab.settings import Value
from effir.lab.sweep_plan import Plan, Result, best, is_unpromising
from effir.lab.sweep_state import Drawn, SweepState, Trial
from effir.lab.trials import TrialError, run_trial
from effir.model.shape import ModelShape
from effir.tracking.store import open_store

Run = Callable[[str, Mapping[str, Value]], Variant]

WITHOUT_TRAINING = {"finetune.steps": 0}
WITHOUT_VERSION = {"register.version": "false"}
UNCOMPRESSED: Mapping[str, Value] = {"prune.depth": 0, "prune.width": 1.0}


@dataclass(frozen=True)
class Outcome:
    """All trials, the best that meets the target, the experiment that registered it, the uncompressed nDCG@10."""

    trials: list[Trial]
    best: Trial | None
    registered: str | None
    reference: float | None


def sweep(plan: Plan, shape: ModelShape, folder: Path) -> Outcome:
    """Run the remaining trials of ``plan``, then run the best once more, which registers it.

    ``shape`` is the base model's. ``folder`` keeps the state, so that a sweep that was stopped or killed continues.
    Trials are the DVC experiments ``<name>-1``, ``<name>-2``, …; each runs first as ``<name>-1-as-cut``, without
    fine-tuning. EffirError for another plan or experiment of the same name, if no setting meets the target's size, or
    if the pipeline fails before any trial has worked or because the MLflow store is unreachable.
    """
    state = SweepState(plan, shape, folder)
    with tqdm(total=plan.trials, desc=plan.name, unit="trial", initial=len(state.done())) as bar:

        def run(name: str, settings: Mapping[str, Value]) -> Variant:
            log, asked = folder / plan.name / f"{name}.log", {**plan.fixed, **settings}
            return run_trial(name, asked, plan.params, log, lambda stage: bar.set_postfix_str(f"{name}: {stage}"))

        reference = None  # the nDCG@10 of the uncompressed model, trained with the same settings
        if plan.target.max_loss is not None:
            reference = _result(run(f"{plan.name}-full", {**UNCOMPRESSED, **WITHOUT_VERSION})).ndcg
        while len(state.done()) < plan.trials and (drawn := state.next()):
            outcome = _try(plan, drawn, state.done(), reference, run)
            state.record(drawn, outcome, reference)
            bar.update()
            bar.write(line(outcome), file=sys.stderr)  # stdout is for the result
        trained = [one for one in state.done() if one.result]
        winner = best(plan.target, [one.result for one in trained if one.result], reference)
        chosen = None if winner is None else trained[winner]
        registered = None if chosen is None else run(f"{chosen.experiment}-best", chosen.settings).name
    if not state.done():
        raise EffirError("no settings of the sweep give a model within the target: widen --vary, or relax the target")
    return Outcome(state.done(), chosen, registered, reference)


def line(trial: Trial) -> str:
    """Describe the outcome of a trial in one line."""
    parts = [trial.experiment, *(f"{key}={value}" for key, value in trial.settings.items())]
    if trial.as_cut is not None:
        parts.append(f"nDCG@10 as cut {trial.as_cut:.3f}")
    if found := trial.result:
        parts.append(f"fine-tuned {found.ndcg:.3f}  {found.parameters / 1e6:.1f} M  {found.speedup:.2f} times as fast")
        parts.append("; ".join(trial.misses) or "meets the target")
    return "  ".join([*parts, f"stopped: {trial.stopped}"] if trial.stopped else parts)


def _try(plan: Plan, drawn: Drawn, done: list[Trial], reference: float | None, run: Run) -> Trial:
    """Run a trial without fine-tuning, which is cheap, and with it unless the first run is unpromising."""
    target, as_cut, experiment, settings = plan.target, None, drawn.experiment, drawn.settings
    try:
        cut = _result(run(f"{experiment}-as-cut", {**settings, **WITHOUT_TRAINING, **WITHOUT_VERSION}))
        as_cut = cut.ndcg
        if missed := target.misses(cut, reference=None):
            return Trial(experiment, settings, as_cut, misses=missed, stopped="; ".join(missed))
        trained = [(one.as_cut, not one.misses) for one in done if one.result and one.as_cut is not None]
        if is_unpromising(target, as_cut, trained):
            return Trial(experiment, settings, as_cut, stopped="its nDCG@10 as cut is lower than that of other trials")
        result = _result(run(experiment, {**settings, **WITHOUT_VERSION}))
    except TrialError as error:
        if plan.params.get("tracking.required"):
            open_store()  # raises if the store is unreachable: then every trial would fail, whatever its settings
        if not any(one.as_cut is not None for one in done):
            raise  # no trial has worked yet, so others would fail for the same reason
        return Trial(experiment, settings, as_cut, stopped=str(error))
    return Trial(experiment, settings, as_cut, result, target.misses(result, reference))


def _result(variant: Variant) -> Result:
    """Read the metrics of the first evaluation set, size and speed."""
    quality, cost = next(iter(variant.quality.values())), variant.cost
    return Result(quality["ndcg_at_10"], int(cost["parameters_without_embeddings"]), cost["document_speedup"])
