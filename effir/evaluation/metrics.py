"""Search quality as BEIR measures it (trec_eval's measures, by query and by set), and whether a difference is real.

Measures are named ``<measure>_at_<cutoff>``: MLflow refuses ``@``. The only module beside ``data/beir.py`` that may
import BEIR's tools; of those it needs pytrec_eval alone, and a test holds that the means equal BEIR's own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytrec_eval
from numpy.typing import NDArray

from effir.errors import EffirError

CUTOFFS = (1, 5, 10, 100)
_TREC_NAMES = {"ndcg": "ndcg_cut", "recall": "recall", "map": "map_cut"}
_DRAWS_AT_ONCE = 2**20

Run = Mapping[str, Mapping[str, float]]
Judgements = Mapping[str, Mapping[str, int]]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Quality:
    """Scores in [0, 1]: query id -> measure (``ndcg_at_10``) -> score, in the judgements' order; plain JSON."""

    scores: dict[str, dict[str, float]]

    @property
    def queries(self) -> int:
        """The number of judged queries."""
        return len(self.scores)

    def by_query(self, measure: str) -> dict[str, float]:
        """Return query id -> score of one measure, for :func:`paired_test`."""
        return {query: scores[measure] for query, scores in self.scores.items()}

    def means(self) -> dict[str, float]:
        """Return measure -> mean over all judged queries."""
        names = next(iter(self.scores.values()))
        return {name: float(np.mean(list(self.by_query(name).values()))) for name in names}


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


def evaluate_run(run: Run, judgements: Judgements) -> Quality:
    """Score a run (query id -> document id -> score, higher is better) against graded judgements, as BEIR does.

    A hit whose id is its query's is left out. nDCG, recall and MAP are trec_eval's (its order among equal scores is
    descending id); MRR is BEIR's (any grade above 0 counts, equal scores stand in the run's order). Unlike BEIR, whose
    means leave out queries that the run lacks, every judged query counts, with 0 where nothing was found. Queries
    without judgements are ignored. EffirError: no judgements, or a run that shares no query with them.
    """
    if not judgements:
        raise EffirError("there are no judgements to evaluate against: check the collection's qrels")
    if not any(query in run for query in judgements):
        raise EffirError("the run answers none of the judged queries: was it made for another collection or split?")
    whole = {query: _foreign_hits(query, run.get(query, {})) for query in judgements}
    measures = {f"{name}.{','.join(map(str, CUTOFFS))}" for name in _TREC_NAMES.values()}
    trec = pytrec_eval.RelevanceEvaluator({q: dict(grades) for q, grades in judgements.items()}, measures)
    by_query = trec.evaluate(whole)
    return Quality({q: _named(by_query.get(q, {}), whole[q], judgements[q]) for q in judgements})


def _foreign_hits(query: str, hits: Mapping[str, float]) -> dict[str, float]:
    return {document: float(score) for document, score in hits.items() if document != query}


def _named(trec: Mapping[str, float], hits: Mapping[str, float], grades: Mapping[str, int]) -> dict[str, float]:
    rank = _first_relevant_rank(hits, grades)
    scores: dict[str, float] = {}
    for cutoff in CUTOFFS:
        scores |= {f"{name}_at_{cutoff}": trec.get(f"{code}_{cutoff}", 0.0) for name, code in _TREC_NAMES.items()}
        scores[f"mrr_at_{cutoff}"] = 1 / rank if rank and rank <= cutoff else 0.0
    return scores


def _first_relevant_rank(hits: Mapping[str, float], grades: Mapping[str, int]) -> int | None:
    """Rank from 1 of the best hit with a grade above 0; None where there is none."""
    ranking = sorted(hits, key=lambda document: hits[document], reverse=True)
    return next((rank for rank, document in enumerate(ranking, start=1) if grades.get(document, 0) > 0), None)


def summary(quality: Quality, bounds: tuple[float, float]) -> dict[str, float]:
    """Return what ``metrics/<set>.json`` holds: every mean, the number of queries and the bounds of nDCG@10."""
    low, high = bounds
    return {**quality.means(), "queries": quality.queries, "ndcg_at_10_low": low, "ndcg_at_10_high": high}


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
