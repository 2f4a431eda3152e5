"""Read a user's documents: a BEIR collection, JSON, a table, a text file, or a folder of text files."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import Any

from effir.data.beir import CORPUS, Collection, Document
from effir.encoding.text_reader import TextReader
from effir.errors import EffirError, MissingError
from effir.files import can_be_written, read_objects, table_rows
from effir.serve.passages import passages
from effir.serve.text_files import SUFFIXES, is_text, read_text

OBJECTS, TABLES = (".jsonl", ".json"), {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Columns:
    """The columns of a table, or keys of objects; without ``id``, ``_id`` or ``id``, else a hash of title and text.

    ``title`` is optional unless it is named. Without ``delimiter`` the file's ending tells what separates columns.
    """

    text: str = "text"
    title: str | None = None
    id: str | None = None
    delimiter: str = ""

    @property
    def named(self) -> list[str]:
        """The columns that must be there."""
        return [name for name in (self.text, self.title, self.id) if name is not None]


@dataclass(frozen=True)
class Survey:
    """How many documents there are, how many the model reads in part only, and the id of one of those."""

    documents: int
    cut: int
    example: str


def documents_of(source: Path, reader: TextReader, columns: Columns | None = None) -> Iterator[Document]:
    """Stream the documents of ``source``; EffirError if two have the same id or one is empty.

    A folder in BEIR layout; a folder of text files or one such file, split into passages that ``reader`` reads whole,
    with ids ``file#number``; a JSON array, JSON lines or a table with ``columns``.
    """
    seen: set[str] = set()
    for document in _documents(source, reader, columns or Columns()):
        if document.id in seen:
            raise EffirError(f"{source} has two documents with the id {document.id!r}: make the ids unique")
        if not document.content:
            raise EffirError(f"{source}: document {document.id!r} is empty: add text or remove it")
        seen.add(document.id)
        yield document
    if not seen:
        raise EffirError(f"{source} has no documents: name a folder with corpus.jsonl or text files, .jsonl or .csv")


def survey(documents: Iterable[Document], reader: TextReader) -> Survey:
    """Count the documents, and those whose end the model does not read."""
    read, counted = tee(documents)
    is_cut = reader.cut((document.content for document in read), "document")
    count, ids = 0, list[str]()
    for document, longer in zip(counted, is_cut, strict=True):
        count += 1
        if longer:
            ids.append(document.id)
    return Survey(count, len(ids), ids[0] if ids else "")


def describe(source: Path, columns: Columns | None = None) -> list[str]:
    """Say which files or columns of ``source`` are read, and which are not, and why."""
    if (source / CORPUS).is_file():
        return [f"{source}: {CORPUS} is read"]
    if source.is_dir():
        return _describe_folder(source)
    if is_text(source):
        return []
    wanted = columns or Columns()
    _, first = next(_rows(source, wanted), ("", dict[str, Any]()))
    read = {wanted.text, wanted.title or "title", *([wanted.id] if wanted.id else ("_id", "id"))}
    used, others = [key for key in first if key in read], [key for key in first if key not in read]
    return [f"{source}: {', '.join(used)} are read" + (f", {', '.join(others)} are not" if others else "")]


def _describe_folder(folder: Path) -> list[str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    texts, others = [path for path in files if is_text(path)], [path for path in files if not is_text(path)]
    empty = [path for path in texts if not read_text(path)[1].strip()]
    said = [f"{folder}: {len(texts) - len(empty):,} files are read ({_kinds(texts)})"]
    if others:
        said.append(f"{len(others):,} files are skipped ({_kinds(others)}): effir reads {', '.join(SUFFIXES)}")
    if empty:
        said.append(f"{len(empty):,} files are skipped, because they hold no text, e.g. {empty[0]}")
    return said


def _kinds(files: Iterable[Path]) -> str:
    return ", ".join(f"{kind or 'no ending'}: {n:,}" for kind, n in Counter(p.suffix.lower() for p in files).items())


def _documents(source: Path, reader: TextReader, columns: Columns) -> Iterator[Document]:
    if (source / CORPUS).is_file():
        return Collection(source).documents()
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if is_text(path) and path.is_file())
        return (document for path in files for document in _of_file(path, source, reader))
    if is_text(source) and source.is_file():
        return _of_file(source, source.parent, reader)
    return (_document(row, place, columns) for place, row in _rows(source, columns))


def _rows(source: Path, columns: Columns) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the place of each row and the row, of JSON or a table; EffirError if a named column is missing."""
    kind = source.suffix.lower()
    if not source.is_file():
        raise MissingError(source)
    if kind in TABLES:
        yield from table_rows(source, columns.named, columns.delimiter or TABLES[kind])
    elif kind in OBJECTS:
        for number, row in enumerate(read_objects(source), start=1):
            if number == 1 and (missing := [name for name in columns.named if name not in row]):
                there = f"has no {missing[0]!r}, only {', '.join(row) or 'nothing'}"
                raise EffirError(f"{source}, document 1, {there}: name the keys of text and title (--text, --title)")
            yield f"{source}, document {number},", row
    else:
        kinds = ", ".join((*OBJECTS, *TABLES, *SUFFIXES))
        raise EffirError(f"{source} is neither a folder nor one of {kinds}: convert it to one of them")


def _document(row: Mapping[str, Any], place: str, columns: Columns) -> Document:
    id_ = row.get(columns.id) if columns.id else row.get("_id", row.get("id"))
    title, text = row.get(columns.title or "title") or "", row.get(columns.text)
    if not isinstance(text, str) or not isinstance(title, str):
        raise EffirError(f"{place} needs a string `{columns.text}`, and a title must be a string: correct it")
    if not can_be_written(text + title):
        raise EffirError(f"{place} holds a lone surrogate, which cannot be written as UTF-8: remove it")
    if not isinstance(id_, str | int | None):
        raise EffirError(f"{place} has an id that is neither a string nor an integer: correct it")
    default = hashlib.blake2b(f"{title}\n{text}".encode(), digest_size=8).hexdigest()
    return Document(default if id_ in (None, "") else str(id_), title.strip(), text.strip())


def _of_file(path: Path, folder: Path, reader: TextReader) -> Iterator[Document]:
    title, text = read_text(path)
    for number, passage in enumerate(passages(text, title, reader), start=1):
        yield Document(f"{path.relative_to(folder).as_posix()}#{number}", title, passage)
