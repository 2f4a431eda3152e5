"""The memory of a sweep: which trials ran and what became of them, kept by optuna in a file that survives a kill."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from effir.compress.plan import planned
from effir.errors import EffirError
from effir.lab.provenance_check import LOCAL, unset
from effir.lab.space import Choice, Range, Space, Value
from effir.lab.target import Result, Target
from effir.model.shape import ModelShape
from effir.params import Scalar, same_text

EXPERIMENT, SETTINGS, OUTCOME, PLAN = "experiment", "settings", "outcome", "plan"
MOST_MISSES = 100  # settings in a row that are too large or have run


@dataclass(frozen=True)
class Plan:
    """What a sweep is to do; a continued one must be the same but for ``trials``.

    ``params`` are params.yaml's, flat: what was found with others is not mixed with new trials. ``fixed`` are settings
    of every trial, over them.
    """

    name: str
    target: Target
    space: Space
    trials: int
    params: Mapping[str, Scalar]
    fixed: Mapping[str, Value] = field(default_factory=dict)
    seed: int = 0

    @property
    def shared(self) -> dict[str, Value]:
        """What all trials have in common and decides what they find."""
        varied = {key: "" for key in self.space}
        own = unset(self.params, {**self.fixed, **varied})
        return {**{key: value for key, value in own.items() if not key.startswith(LOCAL)}, **self.fixed}


@dataclass(frozen=True)
class Drawn:
    """A trial to run: its experiment and settings, and ``known``, what optuna knows it by."""

    experiment: str
    settings: dict[str, Value]
    known: Any


@dataclass(frozen=True)
class Trial:
    """What became of a trial: ``result`` where it was healed, ``given_up`` says why it was not, or why it failed."""

    experiment: str
    settings: dict[str, Value]
    unhealed: float | None = None
    result: Result | None = None
    misses: list[str] = field(default_factory=list)
    given_up: str = ""


class Study:
    """The trials of a plan, in ``<folder>/<name>.db``; EffirError where another plan was begun there."""

    def __init__(self, plan: Plan, shape: ModelShape, folder: Path) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        storage = f"sqlite:///{folder / plan.name}.db"
        self.plan, self.shape = plan, shape
        self.study: Any = optuna.create_study(
            storage=storage, study_name=plan.name, direction="maximize", load_if_exists=True
        )
        self._agree()
        self.study.sampler = optuna.samplers.TPESampler(
            seed=plan.seed + len(self.study.trials),  # a continued sweep must not draw its first trials again
            n_startup_trials=max(3, plan.trials // 3),
        )

    def done(self) -> list[Trial]:
        """List the trials that ran, in their order."""
        ended = (trial for trial in self.study.get_trials(deepcopy=False) if trial.state.is_finished())
        return [_trial(trial.user_attrs[OUTCOME]) for trial in ended if OUTCOME in trial.user_attrs]

    def next(self) -> Drawn | None:
        """Go on with the trial that a kill left, or draw one that is not too large and has not run; None if none is."""
        import optuna

        for left in self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            if EXPERIMENT in left.user_attrs:
                known = optuna.trial.Trial(self.study, left._trial_id)
                return Drawn(left.user_attrs[EXPERIMENT], left.user_attrs[SETTINGS], known)
            self.study.tell(left.number, state=optuna.trial.TrialState.FAIL)  # killed before it had all its values
        tried = [trial.settings for trial in self.done()]
        for _ in range(MOST_MISSES):
            trial = self.study.ask()
            settings = {key: _suggest(trial, key, where) for key, where in self.plan.space.items()}
            size = predicted_parameters(self.shape, {**self.plan.shared, **settings})
            if not self.plan.target.cost_misses(size, None) and settings not in tried:
                drawn = Drawn(f"{self.plan.name}-{len(tried) + 1}", settings, trial)
                trial.set_user_attr(SETTINGS, settings)
                trial.set_user_attr(EXPERIMENT, drawn.experiment)
                return drawn
            if self.plan.target.max_parameters:
                trial.set_constraint("parameters", size / self.plan.target.max_parameters - 1)
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return None

    def record(self, drawn: Drawn, outcome: Trial, reference: float | None) -> None:
        """Keep what became of a trial; its outcome first, so that after a kill it is told whole or goes on."""
        import optuna

        trial = drawn.known
        trial.set_user_attr(OUTCOME, asdict(outcome))
        if outcome.unhealed is not None:
            trial.report(outcome.unhealed, step=0)
        if outcome.result is None:
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            for limit, beyond in self.plan.target.violations(outcome.result, reference).items():
                trial.set_constraint(limit, beyond)
            self.study.tell(trial, self.plan.target.value(outcome.result))

    def _agree(self) -> None:
        plan = json.loads(json.dumps(_identity(self.plan)))
        begun = self.study.user_attrs.get(PLAN, plan)
        if begun != plan:
            both = {**begun, **begun.get("shared", {})}, {**plan, **plan["shared"]}
            keys = [key for key in {**both[0], **both[1]} if key != "shared"]
            other = ", ".join(key for key in keys if both[0].get(key) != both[1].get(key))
            raise EffirError(
                f"sweep {self.plan.name} was begun with another {other}: go back to that, or give another --name"
            )
        self.study.set_user_attr(PLAN, plan)


def _identity(plan: Plan) -> dict[str, Any]:
    """Return what a continued sweep must have as it was."""
    space = {key: asdict(where) for key, where in plan.space.items()}
    shared = {key: same_text(value) for key, value in plan.shared.items()}
    return {"target": asdict(plan.target), "space": space, "seed": plan.seed, "shared": shared}


def predicted_parameters(shape: ModelShape, settings: Mapping[str, Value]) -> int:
    """Count the non-embedding parameters of a cut before it is made; widths are rounded later, by less than 1 %."""
    sublayer: Any = str(settings["analyze.sublayer"])
    depth, width = int(settings["prune.depth"]), float(settings["prune.width"])
    return planned(shape, sublayer, depth, width).parameters(embeddings=False)


def _trial(values: dict[str, Any]) -> Trial:
    return Trial(**{**values, "result": Result(**values["result"]) if values["result"] else None})


def _suggest(trial: Any, key: str, where: Range | Choice) -> Value:
    if isinstance(where, Choice):
        return str(trial.suggest_categorical(key, where.values))
    if where.is_whole:
        return int(trial.suggest_int(key, int(where.low), int(where.high), step=int(where.step)))
    # Steps from the low end miss round figures by a rounding error: the 0.84 of 0.52:1:0.04 is 0.8400000000000001.
    return float(f"{trial.suggest_float(key, where.low, where.high, step=where.step):.6g}")
