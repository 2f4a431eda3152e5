"""`effir data from-csv` and `from-pairs`: questions and answers become a collection that the pipeline reads."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from effir.cli import main
from effir.data.beir import open_collection
from effir.data.checking import check_collection

TABLE = "question,answer,kind\n" + "".join(f"How is {i} made?,By {i % 20} steps.,x\n" for i in range(60))


def effir(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["data", *arguments])


def made(tmp_path: Path, *more: str) -> Result:
    (tmp_path / "pairs.csv").write_text(TABLE, encoding="utf-8")
    names = ["--query", "question", "--document", "answer"]
    return effir("from-csv", str(tmp_path / "pairs.csv"), str(tmp_path / "made"), *names, *more)


def test_a_table_becomes_a_sound_collection(tmp_path: Path) -> None:
    result = made(tmp_path)
    assert result.exit_code == 0, result.output
    assert "20 documents, queries" in result.output  # equal answers are one document
    collection = open_collection(tmp_path / "made")
    assert [document.content for document in collection.documents()][:2] == ["By 0 steps.", "By 1 steps."]
    train, test = collection.queries("train"), collection.queries("test")
    assert len(train) + len(test) == 60
    assert 1 <= len(test) <= 15
    assert not set(train) & set(test)
    query, text = next(iter(test.items()))
    number = int(text.split()[2])
    assert collection.qrels("test")[query] == {f"d{number % 20 + 1}": 1}
    assert not check_collection(tmp_path / "made").findings


def test_a_new_row_moves_no_old_query_to_another_split(tmp_path: Path) -> None:
    made(tmp_path)
    before = open_collection(tmp_path / "made")
    table = TABLE.replace("question,answer,kind\n", "question,answer,kind\nNew?,Yes.,x\n")
    (tmp_path / "more.csv").write_text(table, encoding="utf-8")
    effir("from-csv", str(tmp_path / "more.csv"), str(tmp_path / "more"), "--query", "question", "--document", "answer")
    after = open_collection(tmp_path / "more")
    assert set(before.queries("test").values()) == set(after.queries("test").values()) - {"New?"}


def test_more_documents_may_be_searched_than_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "docs.csv").write_text("answer,title\nBy 0 steps.,\nNobody asks.,Rare\n", encoding="utf-8")
    result = made(tmp_path, "--documents", str(tmp_path / "docs.csv"), "--test-share", "1")
    assert result.exit_code == 0, result.output
    collection = open_collection(tmp_path / "made")
    assert collection.splits == ["test"]
    assert [document.content for document in collection.documents()][-1] == "Rare Nobody asks."
    assert len(list(collection.documents())) == 21


def test_pairs_may_have_several_answers(tmp_path: Path) -> None:
    rows = [{"query": "a?", "positive": ["x", "y"]}, {"query": "b?", "positive": "x", "title": "T"}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made_of = [str(tmp_path / "pairs.jsonl"), str(tmp_path / "made")]
    result = effir("from-pairs", *made_of, "--test-share", "0", "--json")
    said = {"folder": str(tmp_path / "made"), "documents": 3, "queries": {"train": 2}}
    assert json.loads(result.output) == said
    collection = open_collection(tmp_path / "made")
    assert collection.qrels("train") == {"q1": {"d1": 1, "d2": 1}, "q2": {"d3": 1}}
    assert [document.content for document in collection.documents()] == ["x", "y", "T x"]


@pytest.mark.parametrize("form", ["lines", "array"])
def test_json_may_have_other_keys_a_mark_and_null_titles(tmp_path: Path, form: str) -> None:
    rows = [{"ask": f"q{i}?", "reply": f"x{i}", "title": None} for i in range(3)]
    text = "".join(json.dumps(row) + "\n" for row in rows) if form == "lines" else json.dumps(rows, indent=1)
    path = tmp_path / "pairs.JSON"
    path.write_text(text, encoding="utf-8-sig")
    names = ["--query", "ask", "--document", "reply", "--test-share", "0"]
    result = effir("from-pairs", str(path), str(tmp_path / "made"), *names)
    assert result.exit_code == 0, result.output
    collection = open_collection(tmp_path / "made")
    assert [document.content for document in collection.documents()] == ["x0", "x1", "x2"]
    assert list(collection.queries("train").values()) == ["q0?", "q1?", "q2?"]


def test_a_row_that_would_lose_its_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("question,answer\nWhy?,Because, and so.\n", encoding="utf-8")
    names = ["--query", "question", "--document", "answer"]
    result = effir("from-csv", str(tmp_path / "bad.csv"), str(tmp_path / "made"), *names)
    assert "line 2, has more cells than the header: put texts that contain ',' in quotation marks" in result.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "has no column 'question', only a, b: name an existing column"),
        ("", "has no column 'question', only none"),
        ("question,answer\nWhy?,\n", "line 2, lacks a document: fill or remove it"),
        ("question,answer\n,Because.\n", "line 2, lacks a query: fill or remove it"),
        ("question,answer\nWhy?,Because.\n", "gets none of 1 queries"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "bad.csv").write_text(text, encoding="utf-8")
    names = ["--query", "question", "--document", "answer"]
    result = effir("from-csv", str(tmp_path / "bad.csv"), str(tmp_path / "made"), *names)
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert said in result.output
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"query": "a?"}', "pair 1, has a `positive` that is neither a text nor a list of texts"),
        ('{"positive": "x"}', "pair 1, has no `query` and `positive`"),
        ('{"query": "a?", "positive": [3]}', "pair 1, has a `positive` that is neither"),
        ('{"query": " ", "positive": "x"}', "pair 1, lacks a query"),
        ('{"query": "a?", "positive": "\\ud800"}', "pair 1, has half a character"),
        ("nonsense", "line 1, is not JSON"),
    ],
)
def test_pairs_that_cannot_be_used_are_one_sentence(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "bad.jsonl").write_text(f"{line}\n", encoding="utf-8")
    result = effir("from-pairs", str(tmp_path / "bad.jsonl"), str(tmp_path / "made"))
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert said in result.output


def test_the_same_question_in_other_letters_is_one_query_and_never_in_two_splits(tmp_path: Path) -> None:
    rows = [
        f"{text},{answer}"
        for i in range(40)
        for text, answer in ((f"How is {i} made?", "A"), (f"how IS {i}  made?", "B"))
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(["query,document", *rows]), encoding="utf-8")
    result = effir("from-csv", str(tmp_path / "pairs.csv"), str(tmp_path / "made"), "--json")
    assert sum(json.loads(result.output)["queries"].values()) == 40
    assert not check_collection(tmp_path / "made").findings
    collection = open_collection(tmp_path / "made")
    assert all(len(grades) == 2 for split in collection.splits for grades in collection.qrels(split).values())


@pytest.mark.parametrize(("delimiter", "code"), [("tab", 0), (r"\t", 0), (";;", 2), ("", 2)])
def test_columns_may_be_separated_by_another_character(tmp_path: Path, delimiter: str, code: int) -> None:
    rows = "".join(f"Why {i}?\tBecause {i}.\n" for i in range(40))
    (tmp_path / "pairs.tsv").write_text(f"query\tdocument\n{rows}", encoding="utf-8")
    result = effir("from-csv", str(tmp_path / "pairs.tsv"), str(tmp_path / "made"), "--delimiter", delimiter)
    assert result.exit_code == code
    assert (code == 0) == ("40 documents" in result.output)
    assert (code == 2) == (f"--delimiter is {delimiter!r}: give one character, or `tab`" in result.output)


def test_nothing_that_stands_there_is_overwritten(tmp_path: Path) -> None:
    made(tmp_path)
    result = made(tmp_path)
    assert result.exit_code == 2
    assert "exists already: remove it, or name another folder" in result.output


def test_other_text_encodings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_bytes(b"query,document\n\xff\xfe,x\n")
    result = effir("from-csv", str(tmp_path / "bad.csv"), str(tmp_path / "made"))
    assert result.exit_code == 2
    assert "cannot be read as CSV in UTF-8" in result.output
