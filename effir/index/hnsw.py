"""Search an HNSW graph with a measured recall, so that it always gives ``k`` results and misses no document for good.

A graph alone does neither: deleted neighbours crowd out the others, and no edge may lead to one of many near-equal
vectors. So the width of the search is chosen by measuring, vectors that the graph does not lead to are kept in a list
that every search compares, and a search as wide as an eighth of the index compares all vectors instead.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from effir.encoding.encoder import Vectors

RECALL = 0.95  # recall@10 that a graph must reach
WIDTHS = (64, 128, 256, 512, 1024)  # values of efSearch; faiss's own default is 16
SAMPLE = 256  # documents whose ten nearest are compared with the exact ones
SAME = 1e-6  # scores of unit vectors that differ by less are equal in float32
CHUNK = 4096
MOST_LOST = 64  # a graph that does not lead to more than a 64th of its vectors is not used
WIDE = 8  # from an eighth of the vectors on, comparing all of them is as fast
_known: Any = faiss  # its stub lacks selectors and search parameters

Results = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Scores and rows, (queries, k) each."""


@dataclass(frozen=True)
class MeasuredGraph:
    """What was measured of an HNSW graph; ``width`` 0 means that it is not good enough and all vectors are compared.

    ``recall_at_10`` is that of documents searching for their neighbours, ``lost`` the rows to which no search leads.
    """

    width: int
    recall_at_10: float
    lost: list[int]


UNMEASURED = MeasuredGraph(0, 1.0, [])


def measured(index: Any) -> MeasuredGraph:
    """Measure the graph of an IndexHNSW: the narrowest search of ``WIDTHS`` with recall@10 of at least ``RECALL``.

    Each document searches for itself once, which takes about as long as building the graph did. An exact search finds
    what the graph misses, so scores count, not rows: of equal documents any may be returned.
    """
    if _compares_all(index, WIDTHS[0]):
        return MeasuredGraph(WIDTHS[0], 1.0, [])
    rows = np.unique(np.linspace(0, index.ntotal - 1, SAMPLE).astype(np.int64))
    sample = _vectors(index, rows)
    wanted = _exact(index, sample, 10, ())[0]
    for width in WIDTHS:
        found = index.search(sample, 10, params=_params(width, ()))[0]
        if (recall := float(np.mean(found >= wanted - SAME))) >= RECALL:
            lost = [row for rows in _chunks(index.ntotal) for row in _lost(index, rows, width)]
            return MeasuredGraph(width, recall, lost) if MOST_LOST * len(lost) <= index.ntotal else UNMEASURED
    return UNMEASURED


def search_graph(index: Any, graph: MeasuredGraph, queries: Vectors, k: int, without: Sequence[int]) -> Results:
    """Return scores and rows of the ``k`` nearest vectors that are not in ``without``; fewer only if there are fewer.

    The search is wider by each row of ``without``, so that these rows cannot crowd out the others.
    """
    k = min(k, index.ntotal - len(without))
    if not k or not len(queries):
        return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    width = max(graph.width, 2 * k) + len(without)
    if not graph.width or _compares_all(index, width):
        return _exact(index, queries, k, without)
    scores, rows = _with_lost(index, graph, queries, index.search(queries, k, params=_params(width, without)), without)
    few = (rows < 0).any(axis=1)
    if few.any():
        scores[few], rows[few] = _exact(index, queries[few], k, without)
    return scores, rows


def excluding(rows: Sequence[int]) -> Any:
    """Return faiss's search parameters that exclude some rows; None if there are no rows."""
    return _known.SearchParameters(sel=_others(rows)) if len(rows) else None


def _others(rows: Sequence[int]) -> Any:
    return _known.IDSelectorNot(_known.IDSelectorBatch(np.asarray(rows, dtype=np.int64))) if len(rows) else None


def _with_lost(index: Any, graph: MeasuredGraph, queries: Vectors, found: Results, without: Sequence[int]) -> Results:
    """Compare the queries with the lost vectors too."""
    lost = np.setdiff1d(np.asarray(graph.lost, dtype=np.int64), np.asarray(without, dtype=np.int64))
    if not len(lost):
        return found
    (scores, rows), k = found, found[1].shape[1]
    others = np.where((rows[:, :, None] == lost).any(axis=1), -np.inf, queries @ _vectors(index, lost).T)
    scores, rows = np.hstack([scores, others]), np.hstack([rows, np.broadcast_to(lost, others.shape)])
    rows[np.isneginf(scores)] = -1
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, best, axis=1).astype(np.float32), np.take_along_axis(rows, best, axis=1)


def _compares_all(index: Any, width: int) -> bool:
    return bool(WIDE * width >= index.ntotal)


def _exact(index: Any, queries: Vectors, k: int, without: Sequence[int]) -> Results:
    found: Results = faiss.downcast_index(index.storage).search(queries, k, params=excluding(without))
    return found


def _params(width: int, without: Sequence[int]) -> Any:
    return _known.SearchParametersHNSW(efSearch=width, sel=_others(without))


def _vectors(index: Any, rows: NDArray[np.int64]) -> Vectors:
    return np.asarray(index.storage.reconstruct_batch(rows), dtype=np.float32)


def _chunks(count: int) -> Iterator[NDArray[np.int64]]:
    return (np.arange(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))


def _lost(index: Any, rows: NDArray[np.int64], width: int) -> list[int]:
    """List the rows that do not find themselves; a wider search finds what a narrow one does, so few rows need it."""
    missed = _not_found(index, rows, WIDTHS[0])
    return _not_found(index, np.array(missed), width) if missed and width > WIDTHS[0] else missed


def _not_found(index: Any, rows: NDArray[np.int64], width: int) -> list[int]:
    """List the rows whose own vector finds neither them nor an equal one."""
    vectors = _vectors(index, rows)
    best = index.search(vectors, 1, params=_params(width, ()))[0][:, 0]
    return [int(row) for row in rows[best < np.einsum("ij,ij->i", vectors, vectors) - SAME]]
