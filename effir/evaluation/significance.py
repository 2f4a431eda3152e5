"""Whether a difference is real: bootstrap intervals, paired tests, and their correction for several tests."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effir.errors import EffirError

SIGNIFICANT = 0.05
_DRAWS_AT_ONCE = 2**20

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PairedTest:
    """A mean difference over queries, its bootstrap bounds, and the p of the two-sided sign-flip test."""

    difference: float
    low: float
    high: float
    p: float
    queries: int


@dataclass(frozen=True)
class Ratio:
    """One mean as a share of another, and its bootstrap bounds over queries."""

    value: float
    low: float
    high: float


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Correct p-values for their number: the smallest times n, the next times n - 1, never falling (Holm, 1979).

    >>> holm({"a": 0.04, "b": 0.01})
    {'b': 0.02, 'a': 0.04}
    """
    corrected: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = min(1.0, max(highest, p_values[name] * (len(p_values) - rank)))
        corrected[name] = highest
    return corrected


def bootstrap_bounds(
    scores: Sequence[float] | Floats, samples: int = 10_000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Bound the mean of ``scores`` (queries,) by the percentile bootstrap over queries; memory does not grow.

    >>> bootstrap_bounds([0.5, 0.5, 0.5])
    (0.5, 0.5)
    """
    values = np.asarray(scores, dtype=np.float64)
    if not values.size:
        raise EffirError("there are no scores to bound: evaluate at least one query")
    rng = np.random.default_rng(seed)
    means = _in_blocks(
        samples, values.size, lambda rows: values[rng.integers(0, values.size, (rows, values.size))].mean(axis=1)
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_test(
    a: Mapping[str, float], b: Mapping[str, float], *, share: float = 1.0, samples: int = 10_000, seed: int = 0
) -> PairedTest:
    """Test ``a`` against ``share`` of ``b``, both query id -> score, by flipping the signs of a - share * b.

    With share 1 it asks whether two systems differ; with share 0.85 whether ``a`` keeps more than 0.85 of ``b``
    (it does at that level where ``low`` is above 0). p is the share of sign patterns whose mean is at least as far
    from 0: all 2^n of them where ``samples`` covers them, else random ones, counting the observed (so never 0).
    EffirError where the two do not score the same queries.
    """
    if a.keys() != b.keys():
        raise EffirError(f"a paired test needs the same queries on both sides: {len(a.keys() ^ b.keys())} are unpaired")
    differences = np.array([a[query] - share * b[query] for query in a])
    low, high = bootstrap_bounds(differences, samples, seed)
    p = _exact_p(differences) if 2**differences.size <= samples else _sampled_p(differences, samples, seed)
    return PairedTest(float(differences.mean()), low, high, p, differences.size)


def bootstrap_ratio(
    a: Mapping[str, float], b: Mapping[str, float], samples: int = 10_000, seed: int = 0, level: float = 0.95
) -> Ratio:
    """Bound what ``a`` keeps of ``b``, both query id -> score: the ratio of their means, over the same drawn queries.

    EffirError where the two do not score the same queries, or ``b`` found nothing that could be kept.

    >>> bootstrap_ratio({"q1": 0.5, "q2": 0.25}, {"q1": 1.0, "q2": 0.5})
    Ratio(value=0.5, low=0.5, high=0.5)
    """
    if a.keys() != b.keys():
        unpaired = len(a.keys() ^ b.keys())
        raise EffirError(f"a ratio needs the same queries, {unpaired} are unpaired: evaluate both on one set")
    parts, wholes = np.array([a[query] for query in a]), np.array([b[query] for query in a])
    if not wholes.sum():
        raise EffirError("there is nothing to keep of a mean of 0: name another baseline")
    rng = np.random.default_rng(seed)

    def draw(rows: int) -> Floats:
        drawn = rng.integers(0, wholes.size, (rows, wholes.size))
        sums: Floats = wholes[drawn].sum(axis=1)
        ratios: Floats = parts[drawn].sum(axis=1) / np.where(sums, sums, np.nan)
        return ratios

    low, high = np.nanquantile(_in_blocks(samples, wholes.size, draw), [(1 - level) / 2, (1 + level) / 2])
    return Ratio(float(parts.sum() / wholes.sum()), float(low), float(high))


def _exact_p(differences: Floats) -> float:
    """Go through all 2^n sign patterns, pattern i flipping query j where bit j of i is set."""
    patterns = np.arange(2**differences.size)[:, None] >> np.arange(differences.size)
    return float(_as_far((1 - 2 * (patterns & 1)) @ differences, differences).mean())


def _sampled_p(differences: Floats, samples: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    size = differences.size
    sums = _in_blocks(samples, size, lambda rows: (1.0 - 2.0 * rng.integers(0, 2, (rows, size))) @ differences)
    return float((_as_far(sums, differences).sum() + 1) / (samples + 1))


def _as_far(sums: Floats, differences: Floats) -> NDArray[np.bool_]:
    slack = 1e-12 * np.abs(differences).sum()  # the same sum in another order is still a tie
    far: NDArray[np.bool_] = np.abs(sums) >= abs(differences.sum()) - slack
    return far


def _in_blocks(samples: int, width: int, draw: Callable[[int], Floats]) -> Floats:
    """Collect ``samples`` values of ``draw(rows) -> (rows,)``, a bounded number of rows at a time."""
    return np.concatenate([draw(rows) for rows in _blocks(samples, max(1, _DRAWS_AT_ONCE // width))])


def _blocks(total: int, size: int) -> Iterator[int]:
    for start in range(0, total, size):
        yield min(size, total - start)
