"""Documents to search, from the files of a user."""

import json
from pathlib import Path
from typing import Any

import pytest

from effir.data.beir import Document
from effir.errors import EffirError
from effir.serve.texts import Columns, describe, documents_of, survey
from tests.serve.conftest import byte_reader

READER = byte_reader(96)


def documents(source: Path, **columns: Any) -> list[Document]:
    return list(documents_of(source, READER, Columns(**columns)))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_lines_a_table_and_a_collection_are_read_alike(tmp_path: Path) -> None:
    rows = [{"_id": "a", "title": "T", "text": "one"}, {"id": 7, "text": "two"}, {"text": "three"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    table = write(tmp_path / "docs.csv", "id,title,text\na,T,one\n7,,two\n,,three\n")
    found = documents(write(tmp_path / "docs.jsonl", lines))
    assert [(d.id, d.content) for d in found][:2] == [("a", "T one"), ("7", "two")]
    assert documents(table) == found
    write(tmp_path / "beir/corpus.jsonl", lines.splitlines()[0] + "\n")
    assert documents(tmp_path / "beir") == found[:1]
    assert len(found[2].id) == 16  # a hash of its text: the same in every copy
    assert documents(write(tmp_path / "docs.json", json.dumps(rows, indent=2))) == found
    assert documents(write(tmp_path / "docs.TSV", "id\ttitle\ttext\na\tT\tone\n7\t\ttwo\n\t\tthree\n")) == found


@pytest.mark.parametrize("name", ["docs.csv", "docs.jsonl", "docs.json", "docs.txt", "docs.html", "beir/corpus.jsonl"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, name: str) -> None:
    row = '{"_id": "a", "text": "one"}'
    texts = {"csv": "_id,text\na,one\n", "jsonl": f"{row}\n", "json": f"[{row}]", "txt": "one\n", "html": "<p>one</p>"}
    path = write(tmp_path / name, "\ufeff" + texts[name.rpartition(".")[2]])
    (found,) = documents(path.parent if name.startswith("beir") else path)
    assert found.text == "one"
    assert found.id == "a" or name.endswith(("txt", "html"))


def test_the_byte_order_mark_of_joined_files_is_no_text(tmp_path: Path) -> None:
    path = write(tmp_path / "docs.jsonl", '\ufeff{"id": 1, "text": "one"}\n\ufeff{"id": 2, "text": "two"}\n')
    assert [document.text for document in documents(path)] == ["one", "two"]


def test_a_title_may_be_null(tmp_path: Path) -> None:
    row = '{"_id": "a", "title": null, "text": "one"}\n'
    write(tmp_path / "beir/corpus.jsonl", row)
    assert documents(tmp_path / "beir") == documents(write(tmp_path / "d.jsonl", row)) == [Document("a", "", "one")]


def test_columns_may_be_named(tmp_path: Path) -> None:
    table = write(tmp_path / "table.csv", "key;name;body;url\nk1;T;one;x;\n")
    lines = write(tmp_path / "lines.jsonl", '{"key": "k1", "name": "T", "body": "one", "url": "x"}\n')
    names = {"text": "body", "title": "name", "id": "key"}
    assert documents(table, **names, delimiter=";") == documents(lines, **names) == [Document("k1", "T", "one")]
    assert describe(lines, Columns(**names)) == [f"{lines}: key, name, body are read, url are not"]


def test_text_files_are_split_into_passages_of_complete_paragraphs(tmp_path: Path) -> None:
    # 96 bytes with EOS leave 95 - len("The guide ") = 85 for a passage; a paragraph has 49.
    paragraph = "This is a paragraph of two sentences. It is short"
    write(tmp_path / "a/guide.md", f"# The guide\n\nShort.\n\n{paragraph}\n\n{paragraph}\n")
    write(tmp_path / "notes.TXT", "One thing.\n")
    write(tmp_path / "ignored.bin", "x")
    found = documents(tmp_path)
    assert [d.id for d in found] == ["a/guide.md#1", "a/guide.md#2", "notes.TXT#1"]
    assert [d.title for d in found] == ["The guide", "The guide", "notes"]
    assert [d.text for d in found] == [f"# The guide Short. {paragraph}", paragraph, "One thing."]
    assert documents(tmp_path / "notes.TXT") == [Document("notes.TXT#1", "notes", "One thing.")]


def test_a_page_is_read_as_text_with_its_title(tmp_path: Path) -> None:
    page = (
        "<!doctype html><html><head><title>A &amp; B</title><style>p {color: red}</style></head><body><h1>Head</h1>"
        "<p>One <b>bold</b>ly.</p><script>if (a < b) {}</script><ul><li>two<li>three</ul></body></html>"
    )
    (found,) = documents(write(tmp_path / "page.HTM", page))
    assert (found.title, found.text) == ("A & B", "Head One boldly. two three")


def test_what_is_read_and_what_is_skipped_is_said(tmp_path: Path) -> None:
    for name, text in {"a.md": "one", "b.MD": "two", "c.txt": " ", "d.pdf": "x", "e.pdf": "x", "README": "x"}.items():
        write(tmp_path / name, text)
    assert describe(tmp_path) == [
        f"{tmp_path}: 2 files are read (.md: 2, .txt: 1)",
        "3 files are skipped (no ending: 1, .pdf: 2): effir reads .txt, .md, .rst, .html, .htm",
        f"1 files are skipped, because they hold no text, e.g. {tmp_path / 'c.txt'}",
    ]


def test_rows_that_are_longer_than_the_model_reads_are_counted(tmp_path: Path) -> None:
    rows = [{"_id": "fits", "text": "x" * 95}, {"_id": "long", "text": "x" * 96}, {"_id": "longer", "text": "中" * 32}]
    path = write(tmp_path / "docs.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    found = survey(documents(path), READER)
    assert (found.documents, found.cut, found.example) == (3, 2, "long")  # 95 bytes and EOS are 96 tokens


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("docs.jsonl", '{"text": 3}\n', "document 1, needs a string `text`"),
        ("docs.jsonl", "", "has no documents"),
        ("docs.jsonl", '{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', "two documents with the id 'a'"),
        ("docs.jsonl", '{"id": "a", "text": " "}\n', "document 'a' is empty"),
        ("docs.jsonl", '{"text": "\\ud800"}\n', "holds a lone surrogate"),
        ("docs.jsonl", '{"body": "x", "url": "y"}\n', "document 1, has no 'text', only body, url: name the keys"),
        ("docs.json", '{"docs": [{"text": "x"}]}', "document 1, has no 'text', only docs"),
        ("docs.json", '[{"text": "x"}, 3]', "item 2, is not a JSON object"),
        ("docs.csv", "a,b\n1,2\n", "has no column 'text', only a, b"),
        ("docs.csv", "id;text\n1;x\n", "only id;text: name an existing column, or the --delimiter"),
        ("docs.csv", "id,text\n1,one, and more\n", "line 2, has more cells than the header: put texts"),
        ("docs.parquet", "x", "is neither a folder nor one of .jsonl, .json, .csv, .tsv, .txt"),
        ("docs/notes.bin", "x", "has no documents: name a folder"),
    ],
)
def test_what_cannot_be_indexed_is_one_sentence(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(EffirError, match=said):
        documents(path.parent if name.startswith("docs/") else path)
