"""Read a user's documents: a BEIR collection, JSON lines, a CSV file, or a folder of text files."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from effir.data.beir import CORPUS, Collection, Document
from effir.errors import EffirError, MissingError
from effir.files import can_be_written, read_jsonl, table_rows

SUFFIXES = (".txt", ".md", ".rst")
WORDS = 80  # words of a passage: about what a retriever that truncates texts to 96 tokens reads


def documents_of(source: Path) -> Iterator[Document]:
    """Stream the documents of ``source``; EffirError if two have the same id.

    A folder in BEIR layout; a folder of text files, split into passages of about ``WORDS`` words, with ids
    ``file#number``; JSON lines or a CSV file with ``text`` and optionally ``title`` and ``_id`` or ``id``. The default
    id is a hash of title and text.
    """
    seen: set[str] = set()
    for document in _documents(source):
        if document.id in seen:
            raise EffirError(f"{source} has two documents with the id {document.id!r}: make the ids unique")
        if not document.content:
            raise EffirError(f"{source}: document {document.id!r} is empty: add text or remove it")
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
        raise MissingError(source)
    if source.suffix in (".jsonl", ".json"):
        rows = enumerate(read_jsonl(source), start=1)
        return (_document(row, f"{source}, document {number},") for number, row in rows)
    if source.suffix == ".csv":
        return (_document(row, place) for place, row in table_rows(source, ["text"]))
    raise EffirError(f"{source} is neither a folder nor a .jsonl or .csv file: convert it to one of them")


def _document(row: Mapping[str, Any], place: str) -> Document:
    id_, title, text = row.get("_id", row.get("id")), row.get("title") or "", row.get("text")
    if not isinstance(text, str) or not isinstance(title, str):
        raise EffirError(f"{place} needs a string `text`, and `title` must be a string if there is one: correct it")
    if not can_be_written(text + title):
        raise EffirError(f"{place} holds a lone surrogate, which cannot be written as UTF-8: remove it")
    if not isinstance(id_, str | int | None):
        raise EffirError(f"{place} has an id that is neither a string nor an integer: correct it")
    default = hashlib.blake2b(f"{title}\n{text}".encode(), digest_size=8).hexdigest()
    return Document(default if id_ in (None, "") else str(id_), title.strip(), text.strip())


def _passages(folder: Path) -> Iterator[Document]:
    for path in sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file()):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise EffirError(f"{path} is not UTF-8 text ({error.reason}): convert or remove it") from None
        first = text.lstrip().partition("\n")[0]  # a Markdown heading?
        title = (first.lstrip("# ").strip() if first.startswith("#") else "") or path.stem
        for number, passage in enumerate(passages(text), start=1):
            yield Document(f"{path.relative_to(folder).as_posix()}#{number}", title, passage)


def passages(text: str) -> list[str]:
    r"""Split a text into passages of complete paragraphs, of about ``WORDS`` words; split longer paragraphs.

    >>> [len(passage.split()) for passage in passages("one two\n\nthree\n\n" + "word " * 100)]
    [3, 80, 20]
    """
    return grouped(re.split(r"\n\s*\n", text), WORDS)


def grouped(parts: Iterable[str], most: int) -> list[str]:
    """Join successive parts of a text into groups of at most ``most`` words; split a longer part.

    >>> grouped(["a b.", "c.", "d e f g."], 3)
    ['a b. c.', 'd e f', 'g.']
    """
    groups: list[list[str]] = []
    for part in parts:
        words = part.split()
        for start in range(0, len(words), most):
            piece = words[start : start + most]
            if groups and len(groups[-1]) + len(piece) <= most:
                groups[-1] += piece
            else:
                groups.append(piece)
    return [" ".join(words) for words in groups]
