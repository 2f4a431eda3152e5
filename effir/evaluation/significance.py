"""Whether a difference is real: bootstrap intervals, paired tests, and their correction for several tests.

scipy draws the bootstrap samples; it is imported late, because that takes half a second.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray

from effir.errors import EffirError

SIGNIFICANT = 0.05
LEAST_QUERIES = 30
"""Fewer show nothing: that five scores are equal does not say that the sixth is."""
_ABOVE = 1e-9  # 0.4 - 0.5 is a little above -0.1
_DRAWS_AT_ONCE = 2**20  # bounds the memory of a resampling

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


@dataclass(frozen=True)
class NonInferiority:
    """Whether a mean difference over queries is above ``-margin``: its lower bound, and the queries that would show it.

    ``needed`` supposes that the difference and its spread stay; None where the difference itself is not above.
    """

    difference: float
    low: float
    margin: float
    queries: int
    needed: int | None

    @property
    def shown(self) -> bool:
        """Whether it is shown: the lower bound is above, by enough queries."""
        return self.low > _ABOVE - self.margin and self.queries >= LEAST_QUERIES


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
    """Bound the mean of ``scores`` (queries,) by the percentile bootstrap over queries.

    >>> bootstrap_bounds([0.5, 0.5, 0.5])
    (0.5, 0.5)
    """
    values = np.asarray(scores, dtype=np.float64)
    if not values.size:
        raise EffirError("there are no scores to bound: evaluate at least one query")
    return _bounds(np.mean, [values], samples, seed, level)


def paired_test(
    a: Mapping[str, float], b: Mapping[str, float], *, share: float = 1.0, samples: int = 10_000, seed: int = 0
) -> PairedTest:
    """Test ``a`` against ``share`` of ``b``, both query id to score, by flipping the signs of a - share * b.

    With share 1 it asks whether two systems differ; with share 0.85 whether ``a`` keeps more than 0.85 of ``b``
    (it does at that level if ``low`` is above 0). p is the share of sign patterns whose mean is at least as far from 0:
    all 2^n patterns if ``samples`` covers them, else random ones and the observed one, so that p is never 0.
    EffirError if the two do not score the same queries.
    """
    if a.keys() != b.keys():
        raise EffirError(f"a paired test needs the same queries on both sides: {len(a.keys() ^ b.keys())} are unpaired")
    differences = np.array([a[query] - share * b[query] for query in a])
    low, high = bootstrap_bounds(differences, samples, seed)
    p = _sign_flip_p(differences, samples, seed)
    return PairedTest(float(differences.mean()), low, high, p, differences.size)


def non_inferiority(
    a: Mapping[str, float],
    b: Mapping[str, float],
    margin: float,
    *,
    tests: int = 1,
    samples: int = 10_000,
    seed: int = 0,
) -> NonInferiority:
    """Test whether the mean of ``a`` is less than ``margin`` below that of ``b``, both query id to score (0 to 1).

    The bound is the lower end of the 95 % bootstrap interval of the paired difference, at 1 - 0.05 / ``tests``
    (Bonferroni). The percentiles are widened for few queries (Hesterberg, 2015, "What Teachers Should Know About the
    Bootstrap"): by those of t instead of the normal distribution, and by sqrt(n / (n - 1)). EffirError if the two do
    not score the same queries.

    >>> equal = {f"q{i}": 0.5 for i in range(40)}
    >>> non_inferiority(equal, equal, 0.01).shown
    True
    """
    from scipy.stats import norm, t

    if a.keys() != b.keys():
        raise EffirError(f"a paired test needs the same queries on both sides: {len(a.keys() ^ b.keys())} are unpaired")
    differences = np.array([a[query] - b[query] for query in a])
    size, tail, mean = differences.size, SIGNIFICANT / tests / 2, float(differences.mean())
    if size == 1:  # which says nothing about the next one
        return NonInferiority(mean, -1.0, margin, 1, LEAST_QUERIES if mean > _ABOVE - margin else None)
    wider = float(norm.cdf(t.ppf(tail, size - 1) * (size / (size - 1)) ** 0.5))
    low, _ = bootstrap_bounds(differences, samples, seed, 1 - 2 * wider)
    needed = None
    if mean > _ABOVE - margin:
        enough = (float(norm.ppf(tail)) * float(differences.std(ddof=1)) / (mean + margin)) ** 2
        needed = max(int(np.ceil(enough)), LEAST_QUERIES, size if low > _ABOVE - margin else size + 1)
    return NonInferiority(mean, low, margin, size, needed)


def bootstrap_ratio(
    a: Mapping[str, float], b: Mapping[str, float], samples: int = 10_000, seed: int = 0, level: float = 0.95
) -> Ratio:
    """Bound what ``a`` keeps of ``b``, both query id to score: the ratio of their means over the same drawn queries.

    EffirError if the two do not score the same queries, or the mean of ``b`` is 0.

    >>> bootstrap_ratio({"q1": 0.5, "q2": 0.25}, {"q1": 1.0, "q2": 0.5})
    Ratio(value=0.5, low=0.5, high=0.5)
    """
    if a.keys() != b.keys():
        unpaired = len(a.keys() ^ b.keys())
        raise EffirError(f"a ratio needs the same queries, {unpaired} are unpaired: evaluate both on one set")
    kept, full = np.array([a[query] for query in a]), np.array([b[query] for query in a])
    if not full.sum():
        raise EffirError("no share of a mean of 0 can be kept: name another baseline")
    low, high = _bounds(_ratio, [kept, full], samples, seed, level)
    return Ratio(float(kept.sum() / full.sum()), low, high)


def _sign_flip_p(differences: Floats, samples: int, seed: int) -> float:
    """Count the sign patterns; scipy.stats.permutation_test does the same, but takes 9 times as long."""
    size, exact = differences.size, 2**differences.size <= samples
    if exact:  # pattern i flips query j if bit j of i is set
        flips = np.arange(2**size)[:, None] >> np.arange(size) & 1
        sums = (1 - 2 * flips) @ differences
    else:
        rng, rows = np.random.default_rng(seed), _rows(size)
        counts = (min(rows, samples - start) for start in range(0, samples, rows))
        sums = np.concatenate([(1.0 - 2.0 * rng.integers(0, 2, (count, size))) @ differences for count in counts])
    slack = 1e-12 * np.abs(differences).sum()  # the same sum in another order is still a tie
    far = int((np.abs(sums) >= abs(differences.sum()) - slack).sum())
    return far / len(sums) if exact else (far + 1) / (samples + 1)


def _bounds(
    statistic: Callable[..., Any], scores: Sequence[Floats], samples: int, seed: int, level: float
) -> tuple[float, float]:
    """Bound a statistic of paired scores, each (queries,), by the percentile bootstrap over queries."""
    from scipy.stats import DegenerateDataWarning, bootstrap

    size = scores[0].size
    if size == 1:  # scipy refuses it; each draw is the query itself
        return (alone := float(statistic(*scores, axis=0))), alone
    with catch_warnings():
        simplefilter("ignore", DegenerateDataWarning)  # of draws whose ratio is nan, which the quantiles leave out
        resampled = bootstrap(
            scores,
            statistic,
            n_resamples=samples,
            batch=_rows(size),
            vectorized=True,
            paired=True,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    low, high = np.nanquantile(resampled.bootstrap_distribution, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _rows(queries: int) -> int:
    return max(1, _DRAWS_AT_ONCE // queries)


def _ratio(kept: Floats, full: Floats, axis: int) -> Floats:
    """Return nan for draws whose ``full`` are all 0."""
    sums = full.sum(axis=axis)
    ratios: Floats = kept.sum(axis=axis) / np.where(sums, sums, np.nan)
    return ratios
