"""Documents to search, from the files of a user."""

import json
from pathlib import Path

import pytest

from effir.errors import EffirError
from effir.serve.texts import documents_of


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_lines_a_table_and_a_collection_are_read_alike(tmp_path: Path) -> None:
    rows = [{"_id": "a", "title": "T", "text": "one"}, {"id": 7, "text": "two"}, {"text": "three"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    table = write(tmp_path / "docs.csv", "id,title,text\na,T,one\n7,,two\n,,three\n")
    found = list(documents_of(write(tmp_path / "docs.jsonl", lines)))
    assert [(d.id, d.content) for d in found][:2] == [("a", "T one"), ("7", "two")]
    assert list(documents_of(table)) == found
    write(tmp_path / "beir/corpus.jsonl", lines.splitlines()[0] + "\n")
    assert list(documents_of(tmp_path / "beir")) == found[:1]
    assert len(found[2].id) == 16  # a hash of its text: the same in every copy


def test_the_byte_order_mark_of_a_spreadsheet_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "docs.csv").write_text("id,text\na,one\n", encoding="utf-8-sig")
    assert [(d.id, d.content) for d in documents_of(tmp_path / "docs.csv")] == [("a", "one")]


def test_text_files_are_split_into_passages_of_complete_paragraphs(tmp_path: Path) -> None:
    long = " ".join(["word"] * 70)
    write(tmp_path / "a/guide.md", f"# The guide\n\nShort.\n\n{long}\n\n{long}\n")
    write(tmp_path / "notes.txt", "One thing.\n")
    write(tmp_path / "ignored.bin", "x")
    found = list(documents_of(tmp_path))
    assert [d.id for d in found] == ["a/guide.md#1", "a/guide.md#2", "notes.txt#1"]
    assert [d.title for d in found] == ["The guide", "The guide", "notes"]
    assert found[0].text.startswith("# The guide Short. word")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("docs.jsonl", '{"text": 3}\n', "document 1, needs a string `text`"),
        ("docs.jsonl", "", "has no documents"),
        ("docs.jsonl", '{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', "two documents with the id 'a'"),
        ("docs.jsonl", '{"id": "a", "text": " "}\n', "document 'a' is empty"),
        ("docs.jsonl", '{"text": "\\ud800"}\n', "holds a lone surrogate"),
        ("docs.csv", "a,b\n1,2\n", "has no column 'text', only a, b"),
        ("docs.parquet", "x", "is neither a folder nor a .jsonl or .csv file"),
        ("docs/notes.bin", "x", "has no documents: name a folder"),
    ],
)
def test_what_cannot_be_indexed_is_one_sentence(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(EffirError, match=said):
        list(documents_of(path.parent if name.startswith("docs/") else path))
