"""What a pipeline does with the faults of a collection: refuse those that make a metric wrong, say the others once."""

from pathlib import Path
from typing import Any

import pytest

from effir.data.beir import Document, write_collection
from effir.data.catalog import install_evaluation, install_training
from effir.errors import EffirError

QUERIES = {"q1": "cells divide", "q2": "stars burn hydrogen"}
DOCUMENTS = [Document("d1", "Cells", "How cells divide."), Document("d2", "Stars", "How stars burn hydrogen.")]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    qrels = {"train": {"q1": {"d1": 1}}, "test": {"q2": {"d2": 1}}}
    return write_collection(tmp_path / "own", DOCUMENTS, QUERIES, qrels).folder


def install(own: Path, name: str = "mine", train: Any = "apidocs") -> None:
    root = own.parent
    places: dict[str, Any] = {"mirror": root.as_uri(), "collections": {"mine": str(own)}, "cache": root / "cache"}
    install_evaluation(name, root / "set", train=train, **places)


def add(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as lines:
        lines.write(line + "\n")


@pytest.mark.parametrize(
    ("file", "line", "says"),
    [
        ("corpus.jsonl", '{"_id": "d1", "text": "worse"}', "corpus.jsonl: duplicate _id (1), e.g. 'd1', line 3: give"),
        ("qrels/test.tsv", "q2\td9\t1", "qrels/test.tsv: unknown document (1), e.g. 'd9', line 3: add the document"),
        ("qrels/test.tsv", "q2\td2\t0", "qrels/test.tsv: two grades for one pair (1), e.g. 'q2' and 'd2', line 3"),
    ],
)
def test_a_fault_that_makes_a_metric_wrong_stops_before_anything_is_written(
    own: Path, file: str, line: str, says: str
) -> None:
    add(own / file, line)
    for _ in range(2):  # the second time from what was kept
        with pytest.raises(EffirError) as refused:
            install(own)
        assert str(refused.value).startswith(f"mine cannot be used: error: {says}")
        assert not (own.parent / "set").exists()


def test_other_faults_are_printed_once_for_a_content(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(own / "queries.jsonl", '{"_id": "d2", "text": "nobody asks"}')
    install(own)
    said = capsys.readouterr().err
    assert "mine: warning: queries.jsonl: query without qrels (1), e.g. 'd2'" in said
    assert "mine: warning: corpus.jsonl: document with the id of a query (1), e.g. 'd2', line 2: use other ids" in said
    assert "mine: 1 test queries: a paired test detects differences of nDCG@10 of about 0.56 and more" in said
    install(own)
    again = capsys.readouterr().err.splitlines()
    assert again[0] == "mine: 2 kinds of faults, as before; `effir data check` lists them"
    assert "a paired test detects differences" in again[1]
    add(own / "corpus.jsonl", '{"_id": "d3", "text": "more"}')
    install(own)
    assert "query without qrels" in capsys.readouterr().err


def test_a_fault_of_another_split_does_not_stop(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(own / "qrels/train.tsv", "q1\td9\t1")
    install(own)
    assert "mine: error: qrels/train.tsv: unknown document (1)" in capsys.readouterr().err
    places: dict[str, Any] = {"mirror": "", "collections": {"mine": str(own)}, "cache": own.parent / "cache"}
    with pytest.raises(EffirError, match=r"^mine cannot be used: error: qrels/train\.tsv: unknown document"):
        install_training("mine", own.parent / "train", negatives=1, **places)


@pytest.mark.parametrize("train", ["mine", {"apidocs": 1.0, "mine": 1.0}])
def test_a_leak_stops_where_the_set_is_trained_on(own: Path, train: Any) -> None:
    add(own / "qrels/test.tsv", "q1\td1\t1")
    install(own, train="apidocs")
    with pytest.raises(EffirError, match="query of the train split"):
        install(own, train=train)


def test_faults_of_a_public_set_are_printed(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    add(own / "qrels/test.tsv", "q2\td9\t1")
    shutil.make_archive(str(own.parent / "scifact"), "zip", own.parent, "own")
    install(own, "scifact")
    assert "scifact: error: qrels/test.tsv: unknown document (1)" in capsys.readouterr().err
