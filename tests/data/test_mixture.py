"""Several collections as one: shares kept, ids apart, the same choice every time."""

from pathlib import Path

import pytest

from effir.data.beir import Collection, Document, write_collection
from effir.data.catalog import install_training, mix, shares
from effir.data.examples import load_examples
from effir.errors import EffirError
from effir.files import read_json, sha256_of, write_json
from effir.tracking.model_card import licences_of


def collection(folder: Path, count: int, split: str = "train") -> Collection:
    documents = [Document(f"d{i}", "", f"{folder.name} document {i} about thing{i}") for i in range(count)]
    queries = {f"q{i}": f"thing{i} of {folder.name}" for i in range(count)}
    return write_collection(folder, documents, queries, {split: {f"q{i}": {f"d{i}": 1} for i in range(count)}})


def test_shares_follow_the_weights_and_take_as_many_as_there_are() -> None:
    # 30 / 3 = 10 a weight, 40 / 1 = 40 a weight: the first runs out first.
    assert shares({"a": 30, "b": 40}, {"a": 3.0, "b": 1.0}) == {"a": 30, "b": 10}
    assert shares({"a": 7}, {"a": 0.5}) == {"a": 7}
    assert shares({"a": 1000, "b": 1}, {"a": 0.001, "b": 1.0}) == {"a": 1, "b": 1}  # never none


def test_a_mix_has_all_documents_and_queries_in_proportion_under_ids_of_their_own(tmp_path: Path) -> None:
    parts = {"small": collection(tmp_path / "small", 6), "large": collection(tmp_path / "large", 20)}
    mixed = mix(parts, {"small": 2, "large": 1}, tmp_path / "mixed")
    assert [d.id for d in mixed.documents()] == [
        *(f"small/d{i}" for i in range(6)),
        *(f"large/d{i}" for i in range(20)),
    ]
    queries = mixed.queries("train")
    assert sum(id_.startswith("small/") for id_ in queries) == 6
    assert sum(id_.startswith("large/") for id_ in queries) == 3
    for query, grades in mixed.qrels("train").items():
        assert grades == {query.replace("/q", "/d"): 1}
        assert queries[query] == f"thing{query.partition('/q')[2]} of {query.partition('/')[0]}"


def test_a_part_without_training_queries_is_refused_by_its_name(tmp_path: Path) -> None:
    parts = {"good": collection(tmp_path / "good", 6), "bare": collection(tmp_path / "bare", 6)}
    (tmp_path / "bare/qrels/train.tsv").write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(EffirError, match=r"^data\.train: bare has no query in its train split: name another set"):
        mix(parts, {"good": 1, "bare": 1}, tmp_path / "mixed")


def test_a_mix_is_the_same_bytes_again(tmp_path: Path) -> None:
    parts = {name: collection(tmp_path / name, count) for name, count in (("small", 4), ("large", 20))}
    for into in ("one", "other"):
        mix(parts, {"small": 1, "large": 1}, tmp_path / into)
    assert sha256_of(tmp_path / "one") == sha256_of(tmp_path / "other")


def test_params_may_name_several_collections_to_train_on(tmp_path: Path) -> None:
    sources = {name: str(collection(tmp_path / name, 5).folder) for name in ("a", "b")}
    (tmp_path / "cache").mkdir()
    settings = {"negatives": 2, "mirror": "", "collections": sources, "cache": tmp_path / "cache"}
    install_training({"a": 1, "b": 1}, tmp_path / "train", **settings)  # type: ignore[arg-type]
    examples = load_examples(tmp_path / "train", "train", negatives=2)
    assert len(examples) == 10
    assert {example.query.partition(" of ")[2] for example in examples} == {"a", "b"}
    assert all(example.part == example.query.partition(" of ")[2] for example in examples)
    assert read_json(tmp_path / "train/mixture.json") == {"a": 5, "b": 5}
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["checks"]  # the parts are gone


def test_a_mix_carries_the_licences_of_its_parts(tmp_path: Path) -> None:
    parts = {name: collection(tmp_path / name, 3) for name in ("known", "unknown")}
    write_json(tmp_path / "known/SOURCES.json", [{"name": "x", "licence": "MIT"}])
    mixed = mix(parts, {"known": 1, "unknown": 1}, tmp_path / "mixed")
    assert licences_of([mixed.folder]) == {"mixed": ["MIT", "not stated"]}


def test_a_part_without_a_train_split_is_named(tmp_path: Path) -> None:
    parts = {"good": collection(tmp_path / "good", 3), "bad": collection(tmp_path / "bad", 3, split="test")}
    with pytest.raises(EffirError, match=r"data\.train: bad has no train split, only test: name another"):
        mix(parts, {"good": 1, "bad": 1}, tmp_path / "mixed")
    assert not (tmp_path / "mixed").exists()
