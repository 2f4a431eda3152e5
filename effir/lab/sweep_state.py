"""The state of a sweep: its trials and their results, which optuna keeps in a file that survives a kill."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from effir.compress.plan import planned
from effir.errors import EffirError
from effir.lab.settings import Value
from effir.lab.sweep_plan import Choice, Plan, Range, Result
from effir.model.shape import ModelShape
from effir.params import same_text
from effir.resume import code_digest

EXPERIMENT, SETTINGS, OUTCOME, PLAN = "experiment", "settings", "outcome", "plan"
MOST_MISSES = 100  # draws in a row that are too large or ran already, before the sweep ends


@dataclass(frozen=True)
class Drawn:
    """A trial to run: its experiment, its settings, and optuna's trial."""

    experiment: str
    settings: dict[str, Value]
    trial: Any


@dataclass(frozen=True)
class Trial:
    """A trial that ended: nDCG@10 as cut, the result after fine-tuning, or why the trial was stopped or failed."""

    experiment: str
    settings: dict[str, Value]
    as_cut: float | None = None
    result: Result | None = None
    misses: list[str] = field(default_factory=list)
    stopped: str = ""


class SweepState:
    """The trials of a plan, in ``<folder>/<name>.db``; EffirError if that file holds another plan."""

    def __init__(self, plan: Plan, shape: ModelShape, folder: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        kept: dict[str, Any] = {"storage": f"sqlite:///{folder / plan.name}.db", "load_if_exists": True}
        self.plan, self.shape = plan, shape
        self.study: Any = optuna.create_study(study_name=plan.name, direction="maximize", **kept)
        self._check_plan()
        seed = plan.seed + len(self.study.trials)  # a continued sweep must not draw its first trials again
        self.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(3, plan.trials // 3))

    def done(self) -> list[Trial]:
        """List the trials that ended, in their order."""
        ended = (trial for trial in self.study.get_trials(deepcopy=False) if trial.state.is_finished())
        kept = [trial.user_attrs[OUTCOME] for trial in ended if OUTCOME in trial.user_attrs]
        return [Trial(**{**each, "result": Result(**each["result"]) if each["result"] else None}) for each in kept]

    def next(self) -> Drawn | None:
        """Return the trial that a kill interrupted, or draw a new one that is small enough; None if none is left."""
        for left in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if EXPERIMENT in left.user_attrs:
                trial = optuna.trial.Trial(self.study, left._trial_id)
                return Drawn(left.user_attrs[EXPERIMENT], left.user_attrs[SETTINGS], trial)
            self.study.tell(left.number, state=TrialState.FAIL)  # killed before it had all its settings
        tried = [trial.settings for trial in self.done()]
        for _ in range(MOST_MISSES):
            trial = self.study.ask()
            settings = {key: _suggest(trial, key, where) for key, where in self.plan.space.items()}
            size = predicted_parameters(self.shape, {**self.plan.shared, **settings})
            if not self.plan.target.misses(Result(0.0, size, math.inf), None) and settings not in tried:
                drawn = Drawn(f"{self.plan.name}-{len(tried) + 1}", settings, trial)
                trial.set_user_attr(SETTINGS, settings)
                trial.set_user_attr(EXPERIMENT, drawn.experiment)
                return drawn
            if self.plan.target.max_parameters:
                trial.set_constraint("parameters", size / self.plan.target.max_parameters - 1)
            self.study.tell(trial, state=TrialState.PRUNED)
        return None

    def record(self, drawn: Drawn, outcome: Trial, reference: float | None) -> None:
        """Keep an outcome; it is written first, so that a trial killed here either has all of it or is continued."""
        drawn.trial.set_user_attr(OUTCOME, asdict(outcome))
        if outcome.as_cut is not None:
            drawn.trial.report(outcome.as_cut, step=0)
        if outcome.result is None:
            self.study.tell(drawn.trial, state=TrialState.PRUNED)
            return
        for limit, beyond in self.plan.target.violations(outcome.result, reference).items():
            drawn.trial.set_constraint(limit, beyond)
        self.study.tell(drawn.trial, self.plan.target.value(outcome.result))

    def _check_plan(self) -> None:
        """Keep the part of the plan that must not change when the sweep is continued; EffirError if it did."""
        space = {key: asdict(where) for key, where in self.plan.space.items()}
        shared = {key: same_text(value) for key, value in self.plan.shared.items()}
        plan = {"target": asdict(self.plan.target), "space": space, "seed": self.plan.seed, **shared}
        plan |= {"version of effir or its libraries": code_digest()}
        plan = json.loads(json.dumps(plan))
        begun = self.study.user_attrs.get(PLAN, plan)
        if other := ", ".join(key for key in {**begun, **plan} if begun.get(key) != plan.get(key)):
            raise EffirError(
                f"sweep {self.plan.name} was started with another {other}: restore it, or give another --name"
            )
        self.study.set_user_attr(PLAN, plan)


def predicted_parameters(shape: ModelShape, settings: Mapping[str, Value]) -> int:
    """Predict the non-embedding parameters of a cut; rounding of widths changes them later by less than 1 %."""
    sublayer: Any = str(settings["analyze.sublayer"])
    depth, width = int(settings["prune.depth"]), float(settings["prune.width"])
    return planned(shape, sublayer, depth, width).parameters(embeddings=False)


def _suggest(trial: Any, key: str, where: Range | Choice) -> Value:
    if isinstance(where, Choice):
        return str(trial.suggest_categorical(key, where.values))
    if where.is_whole:
        return int(trial.suggest_int(key, int(where.low), int(where.high), step=int(where.step)))
    # Adding steps gives rounding errors: the 0.84 of 0.52:1:0.04 is 0.8400000000000001.
    return float(f"{trial.suggest_float(key, where.low, where.high, step=where.step):.6g}")
