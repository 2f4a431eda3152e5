"""What a sweep is to find: limits, whether a trial meets them, which is best, which is hopeless. Plain figures only."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from effir.errors import EffirError

HEALED_FIRST = 2  # trials healed before any is given up


@dataclass(frozen=True)
class Result:
    """A trial's figures: ``ndcg`` at 10, ``parameters`` without embeddings, ``speedup`` on documents."""

    ndcg: float
    parameters: int
    speedup: float


@dataclass(frozen=True)
class Target:
    """Limits of a sweep; None asks for nothing. ``max_loss`` is a share of the full-size model's nDCG@10."""

    max_parameters: int | None = None
    min_speedup: float | None = None
    max_loss: float | None = None

    def __post_init__(self) -> None:
        if self.max_parameters is None and self.min_speedup is None and self.max_loss is None:
            raise EffirError("a sweep needs a target: give --max-parameters, --min-speedup, --max-loss or several")
        if self.max_parameters is not None and self.max_parameters < 1:
            raise EffirError(f"--max-parameters must be 1 or more, got {self.max_parameters}: 60M is 60 million")
        if self.min_speedup is not None and self.min_speedup <= 0:
            raise EffirError(
                f"--min-speedup must be above 0, got {self.min_speedup:g}: 2 is twice the documents a second"
            )
        if self.max_loss is not None and not 0 <= self.max_loss < 1:
            raise EffirError(f"--max-loss must be in [0, 1), got {self.max_loss:g}: 0.01 is 1 % of nDCG@10")

    @property
    def seeks_small(self) -> bool:
        """Whether only quality is limited, so that the best trial is the smallest, not the one that finds most."""
        return self.max_parameters is None and self.min_speedup is None

    def misses(self, result: Result, reference: float | None) -> list[str]:
        """Name each limit that a result misses; ``reference`` is the full-size model's nDCG@10."""
        found = self.cost_misses(result.parameters, result.speedup)
        if self.max_loss is not None and reference and result.ndcg < (1 - self.max_loss) * reference:
            lost = 1 - result.ndcg / reference
            found.append(f"it loses {lost:.1%} of the full-size model's nDCG@10, more than {self.max_loss:.1%}")
        return found

    def cost_misses(self, parameters: int, speedup: float | None) -> list[str]:
        """Name each limit on cost that is missed; a ``speedup`` of None is not known yet."""
        found = []
        if self.max_parameters is not None and parameters > self.max_parameters:
            found.append(f"{parameters / 1e6:.1f} M parameters are more than {self.max_parameters / 1e6:.1f} M")
        if self.min_speedup is not None and speedup is not None and speedup < self.min_speedup:
            found.append(f"a speed-up of {speedup:.2f} is less than {self.min_speedup:g}")
        return found

    def violations(self, result: Result, reference: float | None) -> dict[str, float]:
        """Say how far a result is beyond each limit: above 0 misses it, as optuna's constraints have it."""
        found = {}
        if self.max_parameters is not None:
            found["parameters"] = result.parameters / self.max_parameters - 1
        if self.min_speedup is not None:
            found["speedup"] = 1 - result.speedup / self.min_speedup
        if self.max_loss is not None and reference:
            found["loss"] = 1 - self.max_loss - result.ndcg / reference
        return found

    def value(self, result: Result) -> float:
        """Return what the sweep maximises: nDCG@10, or minus the millions of parameters where small is sought."""
        return -result.parameters / 1e6 if self.seeks_small else result.ndcg


def best(target: Target, results: Sequence[Result], reference: float | None) -> int | None:
    """Return the index of the best result that misses no limit; None where all miss one.

    >>> found = [Result(0.5, 60, 2.0), Result(0.6, 90, 1.5), Result(0.4, 50, 2.2)]
    >>> best(Target(max_parameters=60), found, None), best(Target(min_speedup=3), found, None)
    (0, None)
    """
    met = [i for i, result in enumerate(results) if not target.misses(result, reference)]
    return max(met, key=lambda i: (target.value(results[i]), results[i].ndcg), default=None)


def hopeless(target: Target, unhealed: float, healed: Sequence[tuple[float, bool]]) -> bool:
    """Say whether a trial is to be given up by its ``unhealed`` nDCG@10, before the healing, which costs most.

    ``healed`` holds the unhealed nDCG@10 of the trials that were healed, and whether each met the target. After two of
    them: where quality is sought, one below their median; where the smallest is sought, one that is no better than a
    trial that then missed the target.

    >>> hopeless(Target(max_parameters=60), 0.1, [(0.2, True), (0.3, True)])
    True
    """
    if len(healed) < HEALED_FIRST:
        return False
    if target.seeks_small:
        return any(unhealed <= other and not met for other, met in healed)
    return unhealed < median(other for other, _ in healed)
