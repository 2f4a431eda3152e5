"""A document store: built from a user's documents, added to, deleted from, killed and continued."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from filelock import FileLock
from numpy.typing import NDArray

from effir.cli import main
from effir.data.beir import Document
from effir.encoding.shards import Encoder, reporting
from effir.errors import EffirError
from effir.index.faiss_index import SearchIndex
from effir.model.retriever import open_retriever
from effir.serve import segments
from effir.serve.documents import (
    LOCK,
    MOST_SEGMENTS,
    DocumentStore,
    add_documents,
    create_index,
    delete_documents,
    read_manifest,
)
from effir.serve.open_model import ServedModel
from tests.serve.conftest import tiny_retriever

pytestmark = pytest.mark.slow


def vectors_of(texts: list[str]) -> NDArray[np.float32]:
    """Unit vectors of a text's words, so that texts with equal words are near."""
    vectors = np.zeros((len(texts), 4096), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in text.lower().split():
            vectors[row, int(hashlib.sha256(word.encode()).hexdigest(), 16) % 4096] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


encode = reporting(vectors_of)


def killed_at(call: int, calls: list[int], sign: float = 1) -> Encoder:
    """Encode, record the number of texts, and die at the given call."""

    def dying(texts: list[str]) -> NDArray[np.float32]:
        calls.append(len(texts))
        if len(calls) == call:
            raise KeyboardInterrupt
        return sign * vectors_of(texts)

    return reporting(dying)


DOCUMENTS = [Document(f"d{i}", "", f"word{i} common") for i in range(30)]
MODEL = ServedModel("a model", "nowhere", "its fingerprint")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    create_index(tmp_path / "index", DOCUMENTS, encode, MODEL, "Flat")
    return tmp_path / "index"


def found(folder: Path, query: str, k: int = 3) -> list[str]:
    return [hit.id for hit in DocumentStore(folder).search(vectors_of([query]), k)[0]]


def test_a_document_is_found_with_its_text(made: Path) -> None:
    (hit,) = DocumentStore(made).search(vectors_of(["word7 common"]), 1)[0]
    assert (hit.id, hit.text, round(hit.score, 5)) == ("d7", "word7 common", 1.0)
    assert DocumentStore(made).count == 30


def test_an_added_document_is_found_and_replaces_the_one_with_its_id(made: Path) -> None:
    added = [Document("d7", "", "another thing"), Document("new", "", "word7 common")]
    assert add_documents(made, added, encode) == (2, 1)
    index = DocumentStore(made)
    assert index.count == 31
    assert found(made, "word7 common")[0] == "new"
    assert found(made, "another thing")[0] == "d7"
    everything = found(made, "word7 common", k=100)
    assert sorted(everything) == sorted([*(d.id for d in DOCUMENTS), "new"])


def test_a_merged_ranking_is_that_of_one_index(made: Path, tmp_path: Path) -> None:
    more = [Document(f"e{i}", "", f"word{i} rare{i} common") for i in range(20)]
    add_documents(made, more, encode)
    create_index(tmp_path / "one", [*DOCUMENTS, *more], encode, MODEL, "Flat")
    for query in ("word3 common", "rare5", "common"):
        pair = (DocumentStore(folder).search(vectors_of([query]), 10)[0] for folder in (made, tmp_path / "one"))
        one, other = ([(round(hit.score, 5), hit.id) for hit in hits] for hits in pair)
        assert [score for score, _ in one] == [score for score, _ in other]
        last = one[-1][0]  # of documents that tie there, either may be kept
        assert {id_ for score, id_ in one if score > last} == {id_ for score, id_ in other if score > last}


def test_what_is_deleted_is_never_found_and_leaves_no_gap(made: Path) -> None:
    assert delete_documents(made, ["d7", "d8"]) == 2
    assert not {"d7", "d8"} & set(found(made, "word7 common", k=100))
    assert len(found(made, "common", k=28)) == 28
    add_documents(made, [Document("d7", "", "word7 common")], encode)  # and may come back
    assert found(made, "word7 common")[0] == "d7"


def test_deleting_a_missing_document_deletes_nothing(made: Path) -> None:
    with pytest.raises(EffirError, match=r"has no document 'nope': nothing was deleted"):
        delete_documents(made, ["d1", "nope"])
    assert DocumentStore(made).count == 30
    delete_documents(made, ["d1"])
    with pytest.raises(EffirError, match=r"has no document 'd1'"):
        delete_documents(made, ["d1"])


def test_a_killed_build_continues_and_is_no_index_before_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effir.serve.segments.SHARD", 10)
    calls = list[int]()
    dying = killed_at(3, calls)

    for _ in "ab":
        try:
            create_index(tmp_path / "index", DOCUMENTS, dying, MODEL, "Flat")
        except KeyboardInterrupt:
            with pytest.raises(EffirError, match="holds no index: make one by `effir index build`"):
                DocumentStore(tmp_path / "index")
    assert calls == [10, 10, 10, 10]  # two shards, the one that died, and that one again
    assert DocumentStore(tmp_path / "index").count == 30


def test_a_build_continued_with_another_model_reuses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effir.serve.segments.SHARD", 10)
    dying = killed_at(3, [], sign=-1)

    with pytest.raises(KeyboardInterrupt):
        create_index(tmp_path / "index", DOCUMENTS, dying, MODEL, "Flat")
    create_index(tmp_path / "index", DOCUMENTS, encode, replace(MODEL, fingerprint="another"), "Flat")
    hits = DocumentStore(tmp_path / "index").search(vectors_of(["common"]), 30)[0]
    assert all(hit.score > 0 for hit in hits)


@pytest.mark.parametrize("factory", ["Flat", "HNSW16"])
def test_many_additions_are_merged_and_nothing_is_lost(tmp_path: Path, factory: str) -> None:
    folder = tmp_path / "index"
    create_index(folder, DOCUMENTS, encode, MODEL, factory)
    for i in range(3 * MOST_SEGMENTS):
        add_documents(folder, [Document(f"d{i}", "", f"newer{i}"), Document(f"e{i}", "", f"extra{i}")], encode)
    delete_documents(folder, ["e0", "d29"])
    index = DocumentStore(folder)
    assert len(index.manifest.segments) <= MOST_SEGMENTS
    assert len(list((folder / "segments").iterdir())) == 2 * len(index.manifest.segments)
    everything = {hit.id: hit.text for hit in index.search(vectors_of(["common newer1 extra1"]), 100)[0]}
    wanted = {f"d{i}": f"newer{i}" for i in range(24)} | {f"d{i}": f"word{i} common" for i in range(24, 29)}
    assert everything == wanted | {f"e{i}": f"extra{i}" for i in range(1, 24)}
    assert index.count == len(everything)
    assert found(folder, "extra7", k=1) == ["e7"]


def test_an_index_without_documents_finds_nothing(made: Path) -> None:
    delete_documents(made, [document.id for document in DOCUMENTS])
    assert found(made, "common") == []


def test_an_index_opens_while_its_segments_are_merged(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(MOST_SEGMENTS - 1):
        add_documents(made, [Document(f"e{i}", "", f"extra{i}")], encode)
    usual = segments.open_index
    added = iter([[Document("last", "", "the last one")]])

    def merged_before(folder: Path) -> SearchIndex:
        for documents in added:
            add_documents(made, documents, encode)
        return usual(folder)

    monkeypatch.setattr(segments, "open_index", merged_before)
    assert found(made, "the last one", k=1) == ["last"]
    assert DocumentStore(made).count == 30 + MOST_SEGMENTS


def test_an_index_does_not_overwrite_a_file(tmp_path: Path) -> None:
    (tmp_path / "index").write_text("mine")
    with pytest.raises(EffirError, match=r"index is a file: name a folder for the index"):
        create_index(tmp_path / "index", DOCUMENTS, encode, MODEL, "Flat")
    assert (tmp_path / "index").read_text() == "mine"


def test_a_damaged_segment_is_one_sentence(made: Path) -> None:
    (made / "segments/0001.texts.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(EffirError, match="its segment 0001 has 0 texts and 30 vectors: build it again"):
        DocumentStore(made)
    (made / "segments/0001.texts.jsonl").unlink()
    with pytest.raises(EffirError, match="its segment 0001 cannot be read: build it again"):
        DocumentStore(made)


@pytest.mark.parametrize("factory", ["IVF4,Flat", "SQ8", "PQ16", "Flet", "PQ7", "HNSW32,PQ16"])
def test_an_index_to_which_nothing_can_be_added_is_refused_with_those_that_work(tmp_path: Path, factory: str) -> None:
    with pytest.raises(
        EffirError, match=f"index of factory '{factory}': use Flat, which is exact, or HNSW32"
    ) as refusal:
        create_index(tmp_path / "index", DOCUMENTS, encode, MODEL, factory)
    assert "IVF1024" not in str(refusal.value)  # it would be refused as well
    assert not (tmp_path / "index").exists()


def test_an_addition_that_was_killed_changes_nothing(made: Path) -> None:
    before = read_manifest(made)
    with pytest.raises(KeyboardInterrupt):
        add_documents(made, [Document("d1", "", "changed")], killed_at(1, []))
    assert read_manifest(made) == before
    assert found(made, "word1 common")[0] == "d1"


def test_two_changes_at_once_are_refused(made: Path) -> None:
    with FileLock(made / LOCK), pytest.raises(EffirError, match="another process is changing"):
        delete_documents(made, ["d1"])


def test_an_index_is_not_built_over_another(made: Path, tmp_path: Path) -> None:
    with pytest.raises(EffirError, match="holds an index already: add to it, or remove it"):
        create_index(made, DOCUMENTS, encode, MODEL, "Flat")


# --- the commands, with a model


def effir(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_retriever(tmp_path_factory.mktemp("model"), query_prompt="")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_commands_build_add_search_and_delete(retriever: Path, tmp_path: Path) -> None:
    texts = [f"w{i} w{i + 1} w{i + 2}" for i in range(4, 40)]
    rows = "".join(json.dumps({"id": text.split()[0], "text": text}) + "\n" for text in texts)
    source = write(tmp_path / "docs.jsonl", rows)
    built = effir("index", "build", source, tmp_path / "index", "--model", retriever, "--json")
    answer = json.loads(built.stdout)
    assert {**answer, "encoding": ""} == {"folder": str(tmp_path / "index"), "documents": 36, "encoding": ""}
    hits = json.loads(effir("search", "w9 w10 w11", "--index", tmp_path / "index", "-k", "3", "--json").stdout)
    assert (hits[0]["id"], hits[0]["text"]) == ("w9", "w9 w10 w11")
    vectors = open_retriever(retriever).encode(["w9 w10 w11", hits[1]["text"]])
    assert hits[1]["score"] == pytest.approx(float(vectors[0] @ vectors[1]), abs=5e-3)

    more = write(tmp_path / "more.csv", "id,text\nw9,w50 w51\nx,w52 w53\n")
    assert "2 documents added; 1 of them replaced older ones" in effir("index", "add", more, tmp_path / "index").output
    listed = write(tmp_path / "ids.txt", "w10\n\nx\n")
    assert "3 deleted" in effir("index", "delete", tmp_path / "index", "w11", "--from", listed).output
    hits = json.loads(effir("search", "w10 w11 w12", "--index", tmp_path / "index", "-k", "50", "--json").stdout)
    assert sorted(hit["id"] for hit in hits) == sorted({text.split()[0] for text in texts} - {"w10", "w11"})


def test_an_index_whose_model_changed_is_not_searched(retriever: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(retriever, tmp_path / "copy")
    source = write(tmp_path / "docs.jsonl", '{"text": "w5"}\n')
    effir("index", "build", source, tmp_path / "index", "--model", copy)
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}), encoding="utf-8")
    result = effir("search", "w5", "--index", tmp_path / "index")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "has changed since the index was built: build the index again" in result.output
    shutil.rmtree(copy)
    assert "is missing from" in effir("search", "w5", "--index", tmp_path / "index").output


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("nowhere", "nowhere holds no retriever: name a sentence-transformers folder, or models:/<name>@<alias>"),
        ("models:/effir", "models:/effir names no registered model: write models:/<name>@<alias>"),
    ],
)
def test_an_unknown_model_is_refused_in_one_sentence(tmp_path: Path, model: str, said: str) -> None:
    source = write(tmp_path / "docs.jsonl", '{"text": "w5"}\n')
    result = effir("index", "build", source, tmp_path / "index", "--model", model)
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert said in result.output
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("segments", ['{"0001": 5}', '["0001"]', '{"0001": [-1]}', '{"0001": [30]}', '{"0001": ["x"]}'])
def test_a_damaged_manifest_is_one_sentence(made: Path, segments: str) -> None:
    manifest = made / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "segments": json.loads(segments)}))
    with pytest.raises(EffirError, match=r"^[^\n]*(name another folder|build it again)$"):
        DocumentStore(made)
