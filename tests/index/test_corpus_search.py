"""A corpus is searched exactly, in the order of the queries, and only finished work of a kill stays."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effir.index.corpus_search import search_corpus

TEXTS = [f"text {i}" for i in range(7)]


class Angles:
    """Encodes ``text i`` as the unit vector at i tenths of a radian; counts what it encodes."""

    def __init__(self) -> None:
        self.encoded = 0

    def documents(self, texts: list[str], report: Any = str) -> Any:
        self.encoded += len(texts)
        angles = np.array([int(text.split()[1]) / 10 for text in texts])
        report(len(texts))
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    def queries(self, texts: list[str]) -> Any:
        return self.documents(texts)


def search(encoder: Any, work: Path, queries: list[str], k: int) -> list[list[str]]:
    entries = ((f"d{i}", "", text) for i, text in enumerate(TEXTS))
    return [[hit.id for hit in hits] for hits in search_corpus(entries, queries, encoder, k, work=work, shard_size=3)]


def test_the_nearest_documents_of_each_query_come_first_and_nothing_stays(tmp_path: Path) -> None:
    assert search(Angles(), tmp_path / "work", ["text 6", "text 0"], 2) == [["d6", "d5"], ["d0", "d1"]]
    assert list(tmp_path.iterdir()) == []


def test_a_killed_search_continues_after_its_last_shard(tmp_path: Path) -> None:
    class Killed(Angles):
        def documents(self, texts: list[str], report: Any = str) -> Any:
            if self.encoded >= 6:
                raise KeyboardInterrupt
            return super().documents(texts, report)

    with pytest.raises(KeyboardInterrupt):
        search(Killed(), tmp_path / "work", ["text 0"], 1)
    again = Angles()
    assert search(again, tmp_path / "work", ["text 0"], 1) == [["d0"]]
    assert again.encoded == 1 + 1  # the last document, and the query
