from pathlib import Path
from typing import Any

import pytest

from effir.data.beir import Collection, Document, write_collection
from effir.data.catalog import install_evaluation, install_training
from effir.data.examples import load_examples
from effir.errors import EffirError

DOCUMENTS = [
    Document("d1", "Cells", "How cells divide in two halves."),
    Document("d2", "Stars", "How stars burn hydrogen in their cores."),
    Document("d3", "Cells again", "Cells that never divide at all, and why."),
    Document("d4", "Stars again", "Stars that never burn hydrogen, and why."),
]
QUERIES = {"q1": "cells divide", "q2": "stars burn hydrogen"}


def collection(folder: Path, *splits: str) -> str:
    qrels = {split: {"q1": {"d1": 1}, "q2": {"d2": 1}} for split in splits}
    write_collection(folder, DOCUMENTS, QUERIES, qrels)
    return str(folder)


def evaluation(tmp_path: Path, name: str = "mine", train: Any = "apidocs", **collections: str) -> Collection:
    return install_evaluation(name, tmp_path / "set", train=train, **settings(tmp_path, **collections))


def settings(tmp_path: Path, **collections: str) -> dict[str, Any]:
    return {"mirror": (tmp_path / "mirror").as_uri(), "collections": collections, "cache": tmp_path / "cache"}


def test_an_own_collection_is_installed_and_its_hard_negatives_are_mined(tmp_path: Path) -> None:
    own = collection(tmp_path / "own", "train", "test")
    installed = install_training("mine", tmp_path / "train", negatives=1, **settings(tmp_path, mine=own))
    assert installed.splits == ["test", "train"]
    examples = {e.query: e for e in load_examples(tmp_path / "train", "train", negatives=1)}
    # Each query's own document is its positive; the other of its subject shares its words and answers nothing.
    assert examples["cells divide"].positive == DOCUMENTS[0].content
    assert examples["cells divide"].negatives == (DOCUMENTS[2].content,)
    assert examples["stars burn hydrogen"].negatives == (DOCUMENTS[3].content,)


def test_a_collection_without_a_train_split_cannot_be_trained_on(tmp_path: Path) -> None:
    own = collection(tmp_path / "own", "dev", "test")
    with pytest.raises(EffirError, match=r"^data\.train: mine has no train split, only dev, test: name another$"):
        install_training("mine", tmp_path / "train", negatives=1, **settings(tmp_path, mine=own))


def test_an_unknown_name_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(EffirError, match="there is no collection 'scifacts': your own are mine; the public ones are"):
        evaluation(tmp_path, "scifacts", mine="folder")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(("splits", "judged"), [(("train", "dev", "test"), "test"), (("train", "dev"), "dev")])
def test_sets_are_judged_on_test_or_else_on_dev(tmp_path: Path, splits: tuple[str, ...], judged: str) -> None:
    own = collection(tmp_path / "own", *splits)
    installed = evaluation(tmp_path, mine=own)
    assert installed.evaluation_split() == judged


def test_a_set_with_neither_cannot_be_judged(tmp_path: Path) -> None:
    own = collection(tmp_path / "own", "train")
    with pytest.raises(EffirError, match=r"^mine cannot be evaluated, it has only qrels of train: add qrels/test\.tsv"):
        evaluation(tmp_path, mine=own)
    assert not (tmp_path / "set").exists()
