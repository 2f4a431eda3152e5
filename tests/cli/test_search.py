import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from effir.cli import main
from effir.cli.search import _texts
from effir.data.beir import Document, write_collection

TEXT = " ".join(["filler"] * 60) + ". Smooths a noisy signal by a window. " + " ".join(["rest"] * 60)
HITS: list[dict[str, Any]] = [
    {"id": "d1", "title": "scipy.signal.medfilt", "score": 0.8123, "text": TEXT},
    {"id": "d2", "title": "", "score": 0.5, "text": ""},
]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["effir.cli.search"]  # the name leads to the command
    # Vectors point to the first axis where a text speaks of a signal, else to the second.
    encoder = SimpleNamespace(
        queries=lambda texts: np.eye(2)[:1],
        documents=lambda texts: np.array([[1.0, 0.0] if "signal" in text else [0.0, 1.0] for text in texts]),
        reader=SimpleNamespace(truncated=lambda text, prompt: text, unread=lambda texts, prompt: []),
    )
    monkeypatch.setattr(module, "_open_set", lambda name: (encoder, lambda vectors, count: HITS))


@pytest.mark.usefixtures("found")
def test_a_hit_has_rank_score_id_title_and_the_passage_that_matched() -> None:
    lines = CliRunner().invoke(main, ["search", "smooth a noisy signal"]).output.splitlines()
    assert lines[0] == " 1. 0.812  d1  scipy.signal.medfilt"
    assert lines[1].startswith("    Smooths a noisy signal by a window.")
    assert lines[2:] == [" 2. 0.500  d2"]


@pytest.mark.usefixtures("found")
def test_json_has_the_passage_beside_the_text() -> None:
    hits = json.loads(CliRunner().invoke(main, ["search", "noisy signal", "--json"]).output)
    assert list(hits[0]) == ["id", "title", "score", "text", "snippet"]
    assert "noisy signal" in hits[0]["snippet"]


def test_texts_are_read_from_the_collection_where_it_is_there(tmp_path: Path) -> None:
    documents = [Document(f"d{i}", "", f"text {i}") for i in range(3)]
    write_collection(tmp_path / "set", documents, {"q": "?"}, {"test": {"q": {"d1": 1}}})
    assert _texts(tmp_path / "set", ["d2"]) == {"d2": "text 2"}
    assert _texts(tmp_path / "away", ["d2"]) == {}
