"""Collections in BEIR layout: written, read back, and read by BEIR's own loader."""

from pathlib import Path

import pytest
from beir.datasets.data_loader import GenericDataLoader

from effir.data.beir import Collection, Document, open_collection, read_by_beir, write_collection
from effir.errors import EffirError
from effir.files import sha256_of

DOCUMENTS = [
    Document("d1", "Cells", "They divide."),
    Document("d2", "", "Naïve\ttabs\nand 中文."),
    Document("d3", "t", ""),
]
QUERIES = {"q2": "what divides?", "q1": "which scripts?", "q3": "nobody asks"}
QRELS = {"test": {"q1": {"d2": 1, "d1": 0}, "q2": {"d1": 2}}, "train": {"q3": {"d3": -1}}}


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return write_collection(tmp_path / "set", iter(DOCUMENTS), QUERIES, QRELS)


def test_what_is_written_is_read_back(collection: Collection) -> None:
    assert list(collection.documents()) == DOCUMENTS
    assert collection.splits == ["test", "train"]
    assert {split: collection.qrels(split) for split in collection.splits} == QRELS


def test_the_queries_of_a_split_are_the_judged_ones_in_file_order(collection: Collection) -> None:
    assert list(collection.queries("test").items()) == [("q2", "what divides?"), ("q1", "which scripts?")]


def test_content_is_title_and_text_without_stray_spaces() -> None:
    assert [d.content for d in DOCUMENTS] == ["Cells They divide.", "Naïve\ttabs\nand 中文.", "t"]


def test_equal_input_gives_equal_bytes(collection: Collection, tmp_path: Path) -> None:
    again = write_collection(tmp_path / "again", DOCUMENTS, QUERIES, QRELS)
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
        write_collection(collection.folder, failing, QUERIES, QRELS)
    assert list(collection.documents()) == DOCUMENTS
    assert [path.name for path in collection.folder.parent.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("qrels", "says"),
    [({}, "would have no qrels"), ({"test": {"q9": {"d1": 1}}}, "split 'test' judges query 'q9'")],
)
def test_a_collection_that_could_not_be_evaluated_is_not_written(
    qrels: dict[str, dict[str, dict[str, int]]], says: str, tmp_path: Path
) -> None:
    with pytest.raises(EffirError, match=says):
        write_collection(tmp_path / "set", DOCUMENTS, QUERIES, qrels)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "set", DOCUMENTS, QUERIES, {"test": QRELS["test"]}).folder
    (folder / name).unlink()
    with pytest.raises(EffirError, match=f"{folder} is not a BEIR collection: .*{name.partition('/')[0]}"):
        open_collection(folder)


def test_a_missing_split_names_those_that_are_there(collection: Collection) -> None:
    with pytest.raises(EffirError, match=r"has no split '\.\./qrels/test': choose one of test, train"):
        collection.qrels("../qrels/test")


@pytest.mark.parametrize(("name", "copies"), [("own", {"2"}), ("arguana", {"1", "2", "3"})])
def test_a_query_is_a_document_only_if_the_text_says_so_or_the_ids_of_the_set_mean_it(
    name: str, copies: set[str], tmp_path: Path
) -> None:
    documents = [Document("1", "", "Stars."), Document("2", "Cells", "They divide."), Document("3", "", "Do they?")]
    queries = {"1": "what divides?", "2": "they  DIVIDE.", "3": "do they?", "4": "what grows?"}
    qrels = {"1": {"1": 1}, "2": {"2": 0}, "3": {"3": 1}, "4": {"1": 1}}
    collection = write_collection(tmp_path / name, documents, queries, {"test": qrels})
    run = {query: {"1": 1.0, "2": 1.0, "3": 1.0} for query in queries}
    # 1 only shares its number, 3 has the text but is judged relevant, 4 is no document.
    assert collection.copies("test", run) == copies
    assert collection.copies("test", {"2": {"1": 1.0}}) == set()  # it did not find itself


HEADER = "query-id\tcorpus-id\tscore\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("q1\td1\t1\n", "line 1, is a row of qrels where the header should be"),
        (HEADER + "q1\td1\t1\nq1 d2 1\n", "line 3, is not `query id, document id, integer grade`"),
        (HEADER + "q1\td1\thigh\n", "line 2, is not"),
        (HEADER + "q1\t0\td1\t1\n", "line 2, is not"),
        (HEADER + "q9\td1\t1\n", r"judges query 'q9', which .*queries\.jsonl lacks"),
    ],
)
def test_a_malformed_judgement_is_named_with_its_line(content: str, says: str, collection: Collection) -> None:
    (collection.folder / "qrels" / "test.tsv").write_text(content)
    with pytest.raises(EffirError, match=rf"qrels/test\.tsv.*{says}"):
        collection.queries("test")


def test_qrels_in_another_encoding_are_one_sentence(collection: Collection) -> None:
    (collection.folder / "qrels" / "test.tsv").write_bytes(HEADER.encode("utf-16"))
    with pytest.raises(EffirError, match=r"qrels/test\.tsv is not UTF-8 text \(invalid start byte\): convert it$"):
        collection.qrels("test")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"title": "t", "text": "x"}', "document 1, has no `_id`"),
        ('{"_id": "d", "title": "t"}', "document 1, has no string `text`"),
        ('{"_id": "d", "title": 3, "text": "x"}', "document 1, has no string `title`"),
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


def test_beirs_own_loader_reads_the_same(collection: Collection) -> None:
    for split in collection.splits:
        assert read_by_beir(collection.folder, split) == (collection.queries(split), collection.qrels(split))
    corpus = GenericDataLoader(str(collection.folder)).load_corpus()
    assert corpus == {d.id: {"title": d.title, "text": d.text} for d in collection.documents()}


# If one of these fails, BEIR's loader has changed: see docs/decisions/0017-beir.md.
@pytest.mark.parametrize(
    ("lines", "theirs", "ours"),
    [
        ("q1\td1\t1\nq2\td1\t1\n", {"q2": {"d1": 1}}, "line 1, is a row of qrels where the header should be"),
        (HEADER + "q1\t0\t7\t1\n", {"q1": {"0": 7}}, "line 2, is not `query id, document id, integer grade`"),
        (HEADER + 'q1\t"d1"\t1\n', {"q1": {"d1": 1}}, {"q1": {'"d1"': 1}}),
    ],
    ids=["no header", "four columns", "quotation marks"],
)
def test_qrels_that_beirs_loader_reads_wrongly_without_an_error(
    lines: str, theirs: dict[str, dict[str, int]], ours: str | dict[str, dict[str, int]], collection: Collection
) -> None:
    (collection.folder / "qrels/test.tsv").write_text(lines)
    assert read_by_beir(collection.folder, "test")[1] == theirs
    if isinstance(ours, dict):
        assert collection.qrels("test") == ours
    else:
        with pytest.raises(EffirError, match=ours):
            collection.qrels("test")


def test_beirs_loader_is_not_given_the_corpus(collection: Collection) -> None:
    (collection.folder / "corpus.jsonl").write_text("not even JSON\n")
    assert read_by_beir(collection.folder, "train") == ({"q3": "nobody asks"}, QRELS["train"])
