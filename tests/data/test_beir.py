import json
import zipfile
from pathlib import Path

import pytest

from effir.data.beir import (
    ADDRESS,
    PUBLIC,
    Collection,
    Document,
    install_collection,
    open_collection,
    write_collection,
)
from effir.errors import EffirError
from effir.files import sha256_of

SHARED = Path(__file__).parents[2] / "../shared/data"
DOCUMENTS = [
    Document("d1", "Cells", "They divide."),
    Document("d2", "", "Naïve\ttabs\nand 中文."),
    Document("d3", "t", ""),
]
QUERIES = {"q2": "what divides?", "q1": "which scripts?", "q3": "nobody asks"}
JUDGEMENTS = {"test": {"q1": {"d2": 1, "d1": 0}, "q2": {"d1": 2}}, "train": {"q3": {"d3": -1}}}


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return write_collection(tmp_path / "set", iter(DOCUMENTS), QUERIES, JUDGEMENTS)


def zip_of(folder: Path, archive: Path, top: str) -> Path:
    with zipfile.ZipFile(archive, "w") as members:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            members.write(path, f"{top}{path.relative_to(folder).as_posix()}")
        members.writestr("__MACOSX/._corpus.jsonl", "junk that macOS adds")
    return archive


def install(name: str, tmp_path: Path, **collections: str) -> Collection:
    mirror = (tmp_path / "mirror").as_uri()
    return install_collection(name, tmp_path / "in", mirror=mirror, collections=collections, cache=tmp_path / "cache")


def test_what_is_written_is_read_back(collection: Collection) -> None:
    assert list(collection.documents()) == DOCUMENTS
    assert collection.splits == ["test", "train"]
    assert {split: collection.judgements(split) for split in collection.splits} == JUDGEMENTS


def test_the_queries_of_a_split_are_the_judged_ones_in_file_order(collection: Collection) -> None:
    assert list(collection.queries("test").items()) == [("q2", "what divides?"), ("q1", "which scripts?")]


def test_content_is_title_and_text_without_stray_spaces() -> None:
    assert [d.content for d in DOCUMENTS] == ["Cells They divide.", "Naïve\ttabs\nand 中文.", "t"]


def test_equal_input_gives_equal_bytes(collection: Collection, tmp_path: Path) -> None:
    again = write_collection(tmp_path / "again", DOCUMENTS, QUERIES, JUDGEMENTS)
    assert sha256_of(again.folder) == sha256_of(collection.folder)


def test_the_corpus_is_streamed(collection: Collection) -> None:
    stream = collection.documents()
    assert next(stream).id == "d1"
    with (collection.folder / "corpus.jsonl").open("a") as lines:
        lines.write("broken\n")
    with pytest.raises(EffirError, match=r"corpus\.jsonl, line 4, is not JSON"):
        list(stream)


def test_a_write_that_fails_leaves_the_old_collection(collection: Collection) -> None:
    failing = (Document(str(1 // n), "", "") for n in (1, 0))
    with pytest.raises(ZeroDivisionError):
        write_collection(collection.folder, failing, QUERIES, JUDGEMENTS)
    assert list(collection.documents()) == DOCUMENTS
    assert [path.name for path in collection.folder.parent.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("judgements", "says"),
    [({}, "would have no judgements"), ({"test": {"q9": {"d1": 1}}}, "split 'test' judges query 'q9'")],
)
def test_a_collection_that_could_not_be_evaluated_is_not_written(
    judgements: dict[str, dict[str, dict[str, int]]], says: str, tmp_path: Path
) -> None:
    with pytest.raises(EffirError, match=says):
        write_collection(tmp_path / "set", DOCUMENTS, QUERIES, judgements)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "set", DOCUMENTS, QUERIES, {"test": JUDGEMENTS["test"]}).folder
    (folder / name).unlink()
    with pytest.raises(EffirError, match=f"{folder} is no BEIR collection: .*{name.partition('/')[0]}"):
        open_collection(folder)


def test_a_missing_split_names_those_that_are_there(collection: Collection) -> None:
    with pytest.raises(EffirError, match=r"has no split '\.\./qrels/test': choose one of test, train"):
        collection.judgements("../qrels/test")


HEADER = "query-id\tcorpus-id\tscore\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("q1\td1\t1\n", "line 1, is a judgement where the header should be"),
        (HEADER + "q1\td1\t1\nq1 d2 1\n", "line 3, is not `query id, document id, whole grade`"),
        (HEADER + "q1\td1\thigh\n", "line 2, is not"),
        (HEADER + "q1\t0\td1\t1\n", "line 2, is not"),
        (HEADER + "q9\td1\t1\n", r"judges query 'q9', which .*queries\.jsonl lacks"),
    ],
)
def test_a_malformed_judgement_is_named_with_its_line(content: str, says: str, collection: Collection) -> None:
    (collection.folder / "qrels" / "test.tsv").write_text(content)
    with pytest.raises(EffirError, match=rf"qrels/test\.tsv.*{says}"):
        collection.queries("test")


def test_judgements_that_are_no_text_are_one_sentence(collection: Collection) -> None:
    (collection.folder / "qrels" / "test.tsv").write_bytes(HEADER.encode("utf-16"))
    with pytest.raises(EffirError, match=r"qrels/test\.tsv is not UTF-8 text \(invalid start byte\): convert it$"):
        collection.judgements("test")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"title": "t", "text": "x"}', "document 1, has no `_id`"),
        ('{"_id": "d", "title": "t"}', "document 1, has no string `text`"),
        ('{"_id": "d", "title": null, "text": "x"}', "document 1, has no string `title`"),
        ('{"_id": "d", "text": "\udcff"}', "is not UTF-8 text"),
    ],
)
def test_a_malformed_document_is_named(row: str, says: str, collection: Collection) -> None:
    (collection.folder / "corpus.jsonl").write_text(row + "\n", errors="surrogateescape")
    with pytest.raises(EffirError, match=says):
        list(collection.documents())


def test_a_title_may_be_left_out_and_a_number_may_be_an_id(collection: Collection) -> None:
    (collection.folder / "corpus.jsonl").write_text('{"_id": 7, "text": "x"}\n')
    assert list(collection.documents()) == [Document("7", "", "x")]


@pytest.mark.parametrize("top", ["", "scifact/", "some-other-name/"])
def test_a_public_set_comes_from_a_mirror_with_or_without_a_top_folder(
    top: str, collection: Collection, tmp_path: Path
) -> None:
    (tmp_path / "mirror").mkdir()
    zip_of(collection.folder, tmp_path / "mirror" / "scifact.zip", top)
    installed = install("scifact", tmp_path)
    assert sha256_of(installed.folder) == sha256_of(collection.folder)


def test_an_own_set_comes_from_a_folder_or_a_zip_and_only_its_own_files_are_taken(
    collection: Collection, tmp_path: Path
) -> None:
    before = sha256_of(collection.folder)
    archive = zip_of(collection.folder, tmp_path / "own.zip", "own/")
    (collection.folder / "notes.txt").write_text("mine")
    for source in (str(collection.folder), f"{archive.as_uri()}#sha256={sha256_of(archive)}"):
        assert sha256_of(install("own", tmp_path, own=source).folder) == before


def test_an_own_set_may_carry_a_public_name(collection: Collection, tmp_path: Path) -> None:
    assert list(install("scifact", tmp_path, scifact=str(collection.folder)).documents()) == DOCUMENTS


def test_an_unknown_set_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        EffirError, match=r"no collection 'scifacts': your own are mine; the public ones are .*scifact;"
    ):
        install("scifacts", tmp_path, mine="somewhere")


def test_an_archive_that_is_no_collection_is_named_and_nothing_is_installed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
        archive.writestr("own/corpus.jsonl", json.dumps({"_id": "d", "text": "x"}))
    with pytest.raises(EffirError, match=r"own\.zip is no BEIR collection: queries\.jsonl is missing"):
        install("own", tmp_path, own=str(tmp_path / "own.zip"))
    assert [path.name for path in tmp_path.iterdir()] == ["own.zip"]


def test_the_official_archives_are_held_to_their_checksums(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(PUBLIC) == 13
    assert ADDRESS.startswith("https://")
    (tmp_path / "mirror").mkdir()
    zip_of(collection.folder, tmp_path / "mirror" / "fiqa.zip", "fiqa/")
    monkeypatch.setattr("effir.data.beir.ADDRESS", (tmp_path / "mirror").as_uri())  # as if it were BEIR's own server
    with pytest.raises(EffirError, match=rf"fiqa\.zip came with MD5 \w+, not {PUBLIC['fiqa']}"):
        install("fiqa", tmp_path)
    assert not (tmp_path / "in").exists()


@pytest.mark.parametrize(
    ("name", "documents", "queries", "judgements"), [("scifact", 5183, 300, 339), ("nfcorpus", 3633, 323, 12334)]
)
def test_real_beir_archives_install(name: str, documents: int, queries: int, judgements: int, tmp_path: Path) -> None:
    archives = SHARED / "beir"
    if not archives.is_dir():
        pytest.skip("no shared/data/beir beside this checkout")
    mirror = archives.resolve().as_uri()
    installed = install_collection(name, tmp_path / "in", mirror=mirror, collections={}, cache=tmp_path / "cache")
    # Counts as BEIR's paper and shared/DATA.md give them.
    assert sum(1 for _ in installed.documents()) == documents
    assert len(installed.queries("test")) == queries
    assert sum(map(len, installed.judgements("test").values())) == judgements
