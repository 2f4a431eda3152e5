"""HNSW: k results always, a measured recall, and no document that cannot be found."""

import json
from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from effir.encoding.shards import reporting
from effir.index.faiss_index import SearchIndex, build_index, open_index
from effir.index.hnsw import RECALL, MeasuredGraph, measured, search_graph

DIMENSION, COUNT = 32, 3000
Vectors = NDArray[np.float32]


def unit(vectors: NDArray[np.float64]) -> Vectors:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def scattered(count: int, seed: int = 0) -> Vectors:
    return unit(np.random.default_rng(seed).normal(size=(count, DIMENSION)))


def near_equal(count: int) -> Vectors:
    """Half of the vectors lie within 0.02 of one point: the others' edges do not lead to each of them."""
    rng = np.random.default_rng(1)
    close = rng.normal(size=(1, DIMENSION)) + 2e-3 * rng.normal(size=(count // 2, DIMENSION))
    return unit(np.concatenate([close, rng.normal(size=(count - count // 2, DIMENSION))]))


def built(vectors: Vectors, folder: Path, factory: str = "HNSW16") -> SearchIndex:
    entries = ((f"d{i}", "", str(i)) for i in range(len(vectors)))
    encode = reporting(lambda texts: vectors[[int(text) for text in texts]])
    build_index(entries, encode, folder / "index", factory=factory, work=folder / "work")
    return open_index(folder / "index")


def graph_alone(vectors: Vectors) -> faiss.IndexHNSW:
    index = faiss.index_factory(DIMENSION, "HNSW16", faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    return index


def rows_of(index: SearchIndex, queries: Vectors, k: int, without: list[int] | None = None) -> list[list[int]]:
    return [[hit.row for hit in hits] for hits in index.search(queries, k, without=without or ())]


@pytest.fixture(scope="module")
def scatter(tmp_path_factory: pytest.TempPathFactory) -> SearchIndex:
    return built(scattered(COUNT), tmp_path_factory.mktemp("scattered"))


@pytest.mark.parametrize("deleted", [100, 900, 2990])
def test_a_search_gives_k_documents_whatever_was_deleted(scatter: SearchIndex, deleted: int) -> None:
    vectors, query = scattered(COUNT), scattered(1, seed=5)
    ranked = [int(row) for row in np.argsort(-(query @ vectors.T)[0])]
    near, others = ranked[:deleted], ranked[deleted:]  # the nearest ones are deleted: the worst case
    found = rows_of(scatter, query, 5, without=near)[0]
    assert len(found) == 5
    assert len(set(found) & set(others[:5])) >= 4
    sel = faiss.IDSelectorNot(faiss.IDSelectorBatch(np.array(near)))
    alone = graph_alone(vectors).search(query, 5, params=faiss.SearchParametersHNSW(sel=sel, efSearch=16))[1]
    assert len(set(alone[0]) & set(others[:5])) < 4  # what faiss gives by itself: some, others or none


def test_all_documents_that_remain_are_found(scatter: SearchIndex) -> None:
    (found,) = rows_of(scatter, scattered(1, seed=5), 50, without=list(range(COUNT - 7)))
    assert sorted(found) == list(range(COUNT - 7, COUNT))
    assert rows_of(scatter, scattered(2, seed=5), 5, without=list(range(COUNT))) == [[], []]


def test_each_of_many_near_equal_documents_finds_itself(tmp_path: Path) -> None:
    vectors = near_equal(COUNT)
    index = built(vectors, tmp_path)
    best = [hits[0].score for hits in index.search(vectors, 5)]
    assert np.sum(np.array(best) < 1 - 2e-6) == 0
    alone = graph_alone(vectors).search(vectors, 5)[0][:, 0]
    assert np.sum(alone < 1 - 2e-6) > 0  # what faiss gives by itself


def test_rows_that_the_graph_does_not_lead_to_are_compared_too() -> None:
    index, vectors = graph_alone(scattered(COUNT)), scattered(COUNT)
    lost = MeasuredGraph(64, 1.0, [7, 8])
    hidden = [row for row in range(COUNT) if row not in (7, 9)]
    scores, rows = search_graph(index, lost, vectors[[7, 9]], 3, ())
    assert (rows[0, 0], rows[1, 0]) == (7, 9)
    assert (len(set(rows[0])), len(set(rows[1]))) == (3, 3)  # none twice
    assert scores[0, 0] == pytest.approx(1, abs=1e-6)
    assert search_graph(index, lost, vectors[[8]], 3, hidden)[1].tolist() in ([[7, 9]], [[9, 7]])


def test_the_recall_is_measured_and_stated_in_the_manifest(scatter: SearchIndex) -> None:
    stated = json.loads((scatter.folder / "manifest.json").read_text(encoding="utf-8"))["graph"]
    assert stated["recall_at_10"] >= RECALL
    vectors = scattered(COUNT)
    exact = [set(np.argsort(-scores)[:10]) for scores in vectors @ vectors.T]
    found = rows_of(scatter, vectors, 10)
    recall = np.mean([len(set(rows) & wanted) / 10 for rows, wanted in zip(found, exact, strict=True)])
    assert recall == pytest.approx(stated["recall_at_10"], abs=0.02)


def test_a_graph_that_reaches_no_recall_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effir.index.hnsw.RECALL", 1.1)
    index, vectors = graph_alone(scattered(COUNT)), scattered(COUNT)
    graph = measured(index)
    assert graph == MeasuredGraph(0, 1.0, [])
    assert search_graph(index, graph, vectors[:50], 1, ())[1][:, 0].tolist() == list(range(50))


def test_an_index_of_an_older_version_is_searched_exactly(tmp_path: Path) -> None:
    vectors = scattered(COUNT)
    built(vectors, tmp_path)
    path = tmp_path / "index/manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    del manifest["graph"]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    found = rows_of(open_index(tmp_path / "index"), vectors[:50], 5)
    assert found == [[int(row) for row in np.argsort(-scores)[:5]] for scores in vectors[:50] @ vectors.T]


def test_a_width_that_is_asked_for_is_used(scatter: SearchIndex) -> None:
    asked = open_index(scatter.folder, "efSearch=16")
    assert (asked.graph, scatter.graph) != (None, None)
    assert asked.graph is not None
    assert asked.graph.width == 16
