import gzip
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from effir.data.beir import Collection, Document, write_collection
from effir.data.calibration import MOST, install_calibration, load_calibration
from effir.errors import EffirError
from effir.files import read_jsonl, write_jsonl

DOCUMENTS = [Document(f"d{i}", f"title {i}", f"text {i}") for i in range(20)]


def corpus(folder: Path, documents: list[Document]) -> Collection:
    return write_collection(folder, documents, {"q": "query"}, {"train": {"q": {documents[0].id: 1}}})


def texts(path: Path) -> list[str]:
    return [row["text"] for row in read_jsonl(path)]


def install(
    source: str, tmp_path: Path, train: Collection | None = None, collections: Mapping[str, str] | None = None
) -> list[str]:
    train = train or corpus(tmp_path / "set", DOCUMENTS)
    install_calibration(source, train, tmp_path / "calibration.jsonl", tmp_path / "cache", collections or {})
    return texts(tmp_path / "calibration.jsonl")


def test_documents_of_the_training_corpus_come_in_the_order_of_their_ids_hashes(tmp_path: Path) -> None:
    ranked = sorted(DOCUMENTS, key=lambda d: hashlib.sha256(d.id.encode()).hexdigest())
    assert install("train", tmp_path) == [f"{d.title} {d.text}" for d in ranked]
    assert ranked != DOCUMENTS


def test_the_sample_does_not_depend_on_how_the_corpus_is_sorted(tmp_path: Path) -> None:
    forwards = install("train", tmp_path)
    assert install("train", tmp_path, corpus(tmp_path / "other", DOCUMENTS[::-1])) == forwards


def test_a_collection_by_its_name_gives_a_sample_of_its_documents(tmp_path: Path) -> None:
    corpus(tmp_path / "own", [Document(f"o{i}", "", f"own {i}") for i in range(9)])
    taken = install("wiki", tmp_path, collections={"wiki": str(tmp_path / "own")})
    assert sorted(taken) == [f"own {i}" for i in range(9)]
    assert taken == install(
        "train", tmp_path, corpus(tmp_path / "same", [Document(f"o{i}", "", f"own {i}") for i in range(9)])
    )
    assert install("wiki", tmp_path, collections={"wiki": str(tmp_path / "own")}) == taken  # nothing is left in the way


def test_no_more_texts_are_kept_than_stated(tmp_path: Path) -> None:
    many = [Document(f"d{i}", "", f"text {i}") for i in range(MOST + 5)]
    assert len(install("train", tmp_path, corpus(tmp_path / "many", many))) == MOST
    write_jsonl(tmp_path / "many.jsonl", ({"text": d.text} for d in many))
    assert install(str(tmp_path / "many.jsonl"), tmp_path) == [d.text for d in many[:MOST]]


@pytest.mark.parametrize("name", ["own.jsonl", "own.jsonl.gz"])
def test_a_json_lines_file_plain_or_gzip_gives_its_texts_in_order(tmp_path: Path, name: str) -> None:
    lines = [{"text": "second first", "url": "x"}, {"text": "naïve 中文"}]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert install(str(tmp_path / name), tmp_path) == ["second first", "naïve 中文"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b"not json\n"),
        ("a.jsonl", b'{"text": "good"}\n{"body": "no text"}\n'),
        ("a.jsonl", b"[1, 2]\n"),
        ("a.jsonl", b'{"text": 7}\n'),
        ("a.jsonl", b'{"text": "\xff\xfe"}\n'),
        ("a.jsonl.gz", b'{"text": "not gzip"}\n'),
        ("a.jsonl.gz", gzip.compress(b'{"text": "cut"}\n' * 99, mtime=0)[:-20]),
    ],
)
def test_a_source_of_another_kind_is_one_sentence_and_leaves_nothing(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EffirError, match=r"^data\.calibration: .*a\.jsonl.* is not JSON lines with a `text` each"):
        install(str(tmp_path / name), tmp_path)
    assert not (tmp_path / "calibration.jsonl").exists()


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(EffirError, match=r"nowhere\.jsonl is missing: correct the path"):
        install(str(tmp_path / "nowhere.jsonl"), tmp_path)


def test_the_first_texts_are_loaded_and_too_few_are_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "c.jsonl", ({"text": f"text {i}"} for i in range(3)))
    assert load_calibration(tmp_path / "c.jsonl", 2) == ["text 0", "text 1"]
    assert load_calibration(tmp_path / "c.jsonl", 3) == ["text 0", "text 1", "text 2"]
    with pytest.raises(EffirError, match=r"c\.jsonl has 3 texts, but 4 are wanted: ask for fewer"):
        load_calibration(tmp_path / "c.jsonl", 4)
