"""The plan of a sweep: the target that a model must meet, the settings that vary, and how trials are judged."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from effir.errors import EffirError
from effir.lab.settings import LOCAL, Value, without
from effir.params import Scalar

FORM = "write prune.depth=0:20, prune.width=0.5:1.0:0.04 or analyze.sublayer=mlp,block"
TRAINED_FIRST = 2  # trials that are fine-tuned before any is stopped early


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high`` in steps."""

    low: float
    high: float
    step: float

    @property
    def is_whole(self) -> bool:
        """Whether all values are integers."""
        return self.low % 1 == self.high % 1 == self.step % 1 == 0


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[str, ...]


def default_space(layers: int) -> dict[str, Range | Choice]:
    """Vary the depth up to two thirds of the layers, and the width from 0.52 to 1."""
    return {"prune.depth": Range(0, 2 * layers // 3, 1), "prune.width": Range(0.52, 1.0, 0.04)}


def read_space(texts: Sequence[str]) -> dict[str, Range | Choice]:
    """Read ``KEY=LOW:HIGH``, ``KEY=LOW:HIGH:STEP`` and ``KEY=a,b,c``.

    The default step is 1 between integers, otherwise 0.02, or 1/20 of a range that is shorter than 0.4.
    """
    return dict(map(_read, texts))


def _read(text: str) -> tuple[str, Range | Choice]:
    key, _, values = text.partition("=")
    if not re.fullmatch(r"(analyze|prune|distill)\.\w+", key) or not values:
        raise EffirError(f"--vary {text}: a sweep varies keys of analyze, prune and distill; {FORM}")
    if ":" not in values:
        return key, Choice(tuple(value.strip() for value in values.split(",")))
    try:
        low, high, *step = map(float, values.split(":"))
    except ValueError:
        raise EffirError(f"--vary {text}: {values} is not a range of numbers; {FORM}") from None
    default = 1.0 if low % 1 == high % 1 == 0 else min(0.02, (high - low) / 20) or 0.02
    spaced = step[0] if step else default
    if len(step) > 1 or low > high or spaced <= 0 or spaced > high - low > 0:
        raise EffirError(f"--vary {text}: low must not be above high, and the step must fit between them; {FORM}")
    return key, Range(low, high, spaced)


@dataclass(frozen=True)
class Result:
    """The metrics of a trial: nDCG@10, non-embedding parameters, and speed-up on documents over the base model."""

    ndcg: float
    parameters: int
    speedup: float


@dataclass(frozen=True)
class Target:
    """Limits that a model must meet; None is no limit. ``max_loss`` is a share of the uncompressed model's nDCG@10."""

    max_parameters: int | None = None
    min_speedup: float | None = None
    max_loss: float | None = None

    def __post_init__(self) -> None:
        size, speedup, loss = self.max_parameters, self.min_speedup, self.max_loss
        if size is None and speedup is None and loss is None:
            raise EffirError("a sweep needs a target: give --max-parameters, --min-speedup or --max-loss")
        if size is not None and size < 1:
            raise EffirError(f"--max-parameters must be 1 or more, got {size}: 60M is 60 million")
        if speedup is not None and speedup <= 0:
            raise EffirError(f"--min-speedup must be above 0, got {speedup:g}: 2 is twice the documents a second")
        if loss is not None and not 0 <= loss < 1:
            raise EffirError(f"--max-loss must be in [0, 1), got {loss:g}: 0.01 is 1 % of nDCG@10")

    @property
    def minimises_size(self) -> bool:
        """Whether only quality is limited. Then the best trial is the smallest, else the one of highest nDCG@10."""
        return self.max_parameters is None and self.min_speedup is None

    def misses(self, result: Result, reference: float | None) -> list[str]:
        """Say for each limit that a result misses by how much.

        ``reference`` is the uncompressed model's nDCG@10; None if quality is not checked.
        """
        found = []
        if self.max_parameters is not None and result.parameters > self.max_parameters:
            found.append(f"{result.parameters / 1e6:.1f} M parameters are more than {self.max_parameters / 1e6:.1f} M")
        if self.min_speedup is not None and result.speedup < self.min_speedup:
            found.append(f"a speed-up of {result.speedup:.2f} is less than {self.min_speedup:g}")
        if self.max_loss is not None and reference and result.ndcg < (1 - self.max_loss) * reference:
            lost = 1 - result.ndcg / reference
            found.append(f"it loses {lost:.1%} of the uncompressed model's nDCG@10, more than {self.max_loss:.1%}")
        return found

    def violations(self, result: Result, reference: float | None) -> dict[str, float]:
        """Return how far a result is beyond each limit, as optuna's constraints: above 0 is a miss."""
        found = {}
        if self.max_parameters is not None:
            found["parameters"] = result.parameters / self.max_parameters - 1
        if self.min_speedup is not None:
            found["speedup"] = 1 - result.speedup / self.min_speedup
        if self.max_loss is not None and reference:
            found["loss"] = 1 - self.max_loss - result.ndcg / reference
        return found

    def value(self, result: Result) -> float:
        """Return what the sweep maximises: nDCG@10, or minus the millions of parameters."""
        return -result.parameters / 1e6 if self.minimises_size else result.ndcg


@dataclass(frozen=True)
class Plan:
    """What a sweep does, with ``params`` (params.yaml, flat) and ``fixed`` settings of every trial over them."""

    name: str
    target: Target
    space: Mapping[str, Range | Choice]
    trials: int
    params: Mapping[str, Scalar]
    fixed: Mapping[str, Value] = field(default_factory=dict)
    seed: int = 0

    @property
    def shared(self) -> dict[str, Value]:
        """The settings that all trials have in common and that change metrics."""
        own = without(self.params, {**self.fixed, **dict.fromkeys(self.space, "")})
        return {key: value for key, value in own.items() if not key.startswith(LOCAL)} | dict(self.fixed)


def best(target: Target, results: Sequence[Result], reference: float | None) -> int | None:
    """Return the index of the best result that meets every limit; None if no result does.

    >>> found = [Result(0.5, 60, 2.0), Result(0.6, 90, 1.5), Result(0.4, 50, 2.2)]
    >>> best(Target(max_parameters=60), found, None), best(Target(min_speedup=3), found, None)
    (0, None)
    """
    met = [i for i, result in enumerate(results) if not target.misses(result, reference)]
    return max(met, key=lambda i: (target.value(results[i]), results[i].ndcg), default=None)


def is_unpromising(target: Target, as_cut: float, trained: Sequence[tuple[float, bool]]) -> bool:
    """Tell whether a trial is stopped before fine-tuning, the expensive part, because of its nDCG@10 ``as_cut``.

    ``trained`` holds the nDCG@10 as cut of each trial that was fine-tuned, and whether that trial met the target. Two
    trials are always fine-tuned. After them a trial is stopped if it is below their median; if the target minimises
    size, if it is no better than a trial that missed the target after fine-tuning.

    >>> is_unpromising(Target(max_parameters=60), 0.1, [(0.2, True), (0.3, True)])
    True
    """
    if len(trained) < TRAINED_FIRST:
        return False
    if target.minimises_size:
        return any(as_cut <= other and not met for other, met in trained)
    return as_cut < median(other for other, _ in trained)
