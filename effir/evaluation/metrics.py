"""Search quality as BEIR measures it: nDCG, recall, MAP and MRR of each query, and their means.

Metrics are named ``<metric>_at_<cutoff>``, because MLflow refuses ``@``.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pytrec_eval
from beir.retrieval.evaluation import EvaluateRetrieval

from effir.errors import EffirError
from effir.evaluation.significance import bootstrap_bounds

CUTOFFS = (1, 5, 10, 100)
ROUNDING = 1e-5  # BEIR rounds its means to 5 digits
_TREC_NAMES = {"ndcg": "ndcg_cut", "recall": "recall", "map": "map_cut"}

Run = Mapping[str, Mapping[str, float]]
Qrels = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Quality:
    """Scores in [0, 1]: query id to metric (``ndcg_at_10``) to score, in the order of the qrels; plain JSON."""

    scores: dict[str, dict[str, float]]

    @property
    def queries(self) -> int:
        """The number of queries with relevance judgements."""
        return len(self.scores)

    def by_query(self, metric: str) -> dict[str, float]:
        """Return query id to score of one metric, for :func:`effir.evaluation.significance.paired_test`."""
        return {query: scores[metric] for query, scores in self.scores.items()}

    def means(self) -> dict[str, float]:
        """Return each metric's mean over all queries with relevance judgements."""
        names = next(iter(self.scores.values()))
        return {name: float(np.mean(list(self.by_query(name).values()))) for name in names}


class Scored(Protocol):
    """A result of a search: a document's id and its score, higher is better."""

    @property
    def id(self) -> str:
        """The document's id."""

    @property
    def score(self) -> float:
        """Its score."""


def as_run(queries: Iterable[str], results: Iterable[Iterable[Scored]]) -> dict[str, dict[str, float]]:
    """Return query id to document id to score, in the order of ``results``; of an id found twice the first counts."""
    run: dict[str, dict[str, float]] = {}
    for query, hits in zip(queries, results, strict=True):
        found = run.setdefault(query, {})
        for hit in hits:
            found.setdefault(hit.id, hit.score)
    return run


def evaluate_run(run: Run, qrels: Qrels, copies: Container[str] = ()) -> Quality:
    """Score a run (query id to document id to score, higher is better) against graded relevance judgements.

    ``copies`` are queries that are documents too (:meth:`effir.data.beir.Collection.copies`): the hit with such a
    query's own id is left out. BEIR leaves out every hit with its query's id, though ids may be unrelated.

    nDCG, recall and MAP are trec_eval's (equal scores are ordered by descending id); MRR is BEIR's (any grade above 0
    counts, equal scores keep the order of the run). Every query of the qrels counts, with 0 if nothing
    was found; BEIR's means leave out the queries that a run lacks. Queries without relevance judgements are ignored.
    EffirError: no qrels, a run that shares no query with them, or metrics that differ from BEIR's own
    (docs/decisions/0017-beir.md).
    """
    if not qrels:
        raise EffirError("there are no relevance judgements to evaluate against: check the collection's qrels")
    if not any(query in run for query in qrels):
        raise EffirError("the run answers no query of the qrels: was it made for another collection or split?")
    grades = {query: dict(judged) for query, judged in qrels.items()}
    hits = {
        query: {
            document: float(score)
            for document, score in run.get(query, {}).items()
            if document != query or query not in copies
        }
        for query in grades
    }
    measures = {f"{name}.{','.join(map(str, CUTOFFS))}" for name in _TREC_NAMES.values()}
    trec = pytrec_eval.RelevanceEvaluator(grades, measures).evaluate(hits)
    quality = Quality({query: _named(trec.get(query, {}), hits[query], grades[query]) for query in grades})
    if trec:
        _compare_with_beir(quality, hits, grades, len(trec))
    return quality


def _named(trec: Mapping[str, float], hits: Mapping[str, float], grades: Mapping[str, int]) -> dict[str, float]:
    ranking = sorted(hits, key=lambda document: hits[document], reverse=True)
    rank = next((rank for rank, document in enumerate(ranking, start=1) if grades.get(document, 0) > 0), None)
    scores: dict[str, float] = {}
    for cutoff in CUTOFFS:
        scores |= {f"{name}_at_{cutoff}": trec.get(f"{code}_{cutoff}", 0.0) for name, code in _TREC_NAMES.items()}
        scores[f"mrr_at_{cutoff}"] = 1 / rank if rank and rank <= cutoff else 0.0
    return scores


def _compare_with_beir(quality: Quality, hits: Run, grades: dict[str, dict[str, int]], answered: int) -> None:
    """Raise EffirError if BEIR's own means differ; BEIR's are over the ``answered`` queries, except for MRR."""
    given, cutoffs = {query: dict(found) for query, found in hits.items()}, list(CUTOFFS)
    ndcg, mean_ap, recall, _ = EvaluateRetrieval.evaluate(grades, given, cutoffs, ignore_identical_ids=False)
    mrr = EvaluateRetrieval.evaluate_custom(grades, given, cutoffs, metric="mrr")
    means = quality.means()
    for key, theirs in {**ndcg, **mean_ap, **recall, **mrr}.items():
        name = key.lower().replace("@", "_at_")
        ours = means[name] if key in mrr else means[name] * quality.queries / answered
        if abs(ours - theirs) > ROUNDING:
            raise EffirError(
                f"{name} is {ours:.6f}, but BEIR's EvaluateRetrieval gives {theirs}: "
                "install the versions of beir and pytrec-eval-terrier that constraints.txt names"
            )


def score_report(quality: Quality, samples: int, seed: int) -> dict[str, Any]:
    """Return what ``baselines/<set>.json`` holds of one system: the means, and nDCG@10 of each query."""
    scores = quality.by_query("ndcg_at_10")
    return {"metrics": summary(quality, bootstrap_bounds(list(scores.values()), samples, seed)), "ndcg_at_10": scores}


def summary(quality: Quality, bounds: tuple[float, float]) -> dict[str, float]:
    """Return what ``metrics/<set>.json`` holds: every mean, the number of queries and the bounds of nDCG@10."""
    low, high = bounds
    return {**quality.means(), "queries": quality.queries, "ndcg_at_10_low": low, "ndcg_at_10_high": high}
