"""BM25: Lucene's scores, and the same ranking on every machine."""

import math

import numpy as np
import pytest

from effir.data.beir import Document
from effir.data.bm25 import best, bm25_search
from effir.errors import EffirError


def test_bm25_scores_are_lucenes() -> None:
    documents = [Document("1", "", "cat dog"), Document("2", "", "cat cat fish bird"), Document("3", "", "bird")]
    found = bm25_search(documents, {"q": "cat"}, k=3)["q"]
    # idf = ln(1 + (3 - 2 + 0.5) / (2 + 0.5)); mean length 7/3; tf / (tf + 0.9 (0.6 + 0.4 length / mean))
    idf = math.log(1 + 1.5 / 2.5)
    first = idf * 1 / (1 + 0.9 * (0.6 + 0.4 * 2 / (7 / 3)))
    second = idf * 2 / (2 + 0.9 * (0.6 + 0.4 * 4 / (7 / 3)))
    assert found == pytest.approx({"2": second, "1": first}, rel=1e-5)
    assert list(found) == ["2", "1"]


def test_bm25_breaks_ties_by_the_corpus_and_stops_at_k() -> None:
    documents = [Document(str(number), "", "cat") for number in range(20)]
    assert list(bm25_search(documents, {"q": "cat"}, k=3)["q"]) == ["0", "1", "2"]


def test_bm25_finds_nothing_for_a_query_without_known_words() -> None:
    assert bm25_search([Document("1", "", "cat")], {"q": "zebra", "": ""}, k=3) == {"q": {}, "": {}}


def test_bm25_refuses_a_corpus_without_words() -> None:
    with pytest.raises(EffirError, match="corpus is empty"):
        bm25_search([Document("1", "", "")], {"q": "cat"}, k=3)


def test_best_agrees_with_a_full_stable_sort() -> None:
    scores = np.random.default_rng(0).integers(0, 6, 100).astype(np.float32)
    expected = [int(place) for place in np.argsort(-scores, kind="stable") if scores[place] > 0]
    assert [best(scores, k) for k in (1, 10, 100, 200)] == [expected[:k] for k in (1, 10, 100, 200)]
