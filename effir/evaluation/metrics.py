"""Search quality as BEIR measures it (trec_eval's measures, by query and by set), and whether a difference is real.

Measures are named ``<measure>_at_<cutoff>``: MLflow refuses ``@``. The only module beside ``data/beir.py`` that may
import BEIR's tools; of those it needs pytrec_eval alone, and a test holds that the means equal BEIR's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytrec_eval
from numpy.typing import NDArray

from effir.errors import EffirError

CUTOFFS = (1, 5, 10, 100)
_TREC_NAMES = {"ndcg": "ndcg_cut", "recall": "recall", "map": "map_cut"}

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
