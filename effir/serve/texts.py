"""Documents to search, from what a user has: a collection, JSON lines, a table, or a folder of text files."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from effir.data.beir import CORPUS, Collection, Document
from effir.data.tables import can_be_written, table_rows
from effir.errors import EffirError
from effir.files import read_jsonl

SUFFIXES = (".txt", ".md", ".rst")
WORDS = 80
"""Words of a passage, about what a retriever that cuts at 96 tokens reads."""


def documents_of(source: Path) -> Iterator[Document]:
    """Stream the documents of ``source``; their ids are unique, EffirError where they are not.

    A folder in BEIR layout; a folder of text files, each in passages of about ``WORDS`` words, ids ``file#number``;
    JSON lines or a CSV file with a ``text`` and maybe a ``title`` and an ``_id`` or ``id``. Without an id a document is
    named by a hash of what it says.
    """
    seen: set[str] = set()
    for document in _documents(source):
        if document.id in seen:
            raise EffirError(f"{source} has two documents with the id {document.id!r}: give each its own")
        if not document.content:
            raise EffirError(f"{source}: document {document.id!r} is empty: fill or remove it")
        seen.add(document.id)
        yield document
    if not seen:
        raise EffirError(f"{source} has no documents: name a folder with corpus.jsonl or text files, .jsonl or .csv")


def _documents(source: Path) -> Iterator[Document]:
    if (source / CORPUS).is_file():
        return Collection(source).documents()
    if source.is_dir():
        return _passages(source)
    if not source.is_file():
        raise EffirError(f"{source} is missing: mend the path")
    if source.suffix in (".jsonl", ".json"):
        rows = enumerate(read_jsonl(source), start=1)
        return (_document(row, f"{source}, document {number},") for number, row in rows)
    if source.suffix == ".csv":
        return (_document(row, place) for place, row in table_rows(source, ["text"]))
    raise EffirError(f"{source} is neither a folder nor .jsonl nor .csv: name one")


def _document(row: Mapping[str, Any], place: str) -> Document:
    id_, title, text = row.get("_id", row.get("id")), row.get("title") or "", row.get("text")
    if not isinstance(text, str) or not isinstance(title, str):
        raise EffirError(f"{place} has no `text`, or a `title` that is no text: mend it")
    if not can_be_written(text + title):
        raise EffirError(f"{place} holds half a character (a lone surrogate), which no file can: mend it")
    if not isinstance(id_, str | int | None):
        raise EffirError(f"{place} has an id that is neither a text nor a whole number: mend it")
    return Document(str(id_) if id_ not in (None, "") else _hash(title, text), title.strip(), text.strip())


def _hash(*texts: str) -> str:
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()


def _passages(folder: Path) -> Iterator[Document]:
    for path in sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file()):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise EffirError(f"{path} is not UTF-8 text ({error.reason}): convert or remove it") from None
        name, title = path.relative_to(folder).as_posix(), _title(text) or path.stem
        for number, passage in enumerate(passages(text), start=1):
            yield Document(f"{name}#{number}", title, passage)


def _title(text: str) -> str:
    """Take a Markdown heading that begins a text."""
    first = text.lstrip().partition("\n")[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def passages(text: str) -> list[str]:
    r"""Split a text into passages of whole paragraphs, of about ``WORDS`` words; a longer paragraph is split.

    >>> [len(passage.split()) for passage in passages("one two\n\nthree\n\n" + "word " * 100)]
    [3, 80, 20]
    """
    found: list[list[str]] = []
    for paragraph in re.split(r"\n\s*\n", text):
        words = paragraph.split()
        for start in range(0, len(words), WORDS):
            piece = words[start : start + WORDS]
            if found and len(found[-1]) + len(piece) <= WORDS:
                found[-1] += piece
            else:
                found.append(piece)
    return [" ".join(words) for words in found]
