"""A collection made of questions and their answers: a table or a list of pairs becomes BEIR layout."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from effir.data.beir import Collection, Document, write_collection
from effir.data.tables import can_be_written, table_rows
from effir.errors import EffirError
from effir.files import read_jsonl


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what; a title is optional."""

    query: str = "query"
    document: str = "document"
    title: str = "title"


@dataclass(frozen=True)
class Pair:
    """A query, none for a document that nobody asks for, and a document that answers it."""

    query: str
    title: str
    text: str


def pairs_of_table(path: Path, columns: Columns, delimiter: str, asked: bool = True) -> Iterator[Pair]:
    """Read a CSV file with a header, UTF-8, a pair a row; without queries where not ``asked``.

    EffirError names the column that is not there, or the row that lacks a text.
    """
    wanted = (columns.query, columns.document) if asked else (columns.document,)
    for place, row in table_rows(_there(path), wanted, delimiter):
        query, title, text = (
            (row.get(name) or "").strip() for name in (columns.query, columns.title, columns.document)
        )
        yield _checked(Pair(query if asked else "", title, text), asked, place)


def pairs_of_lines(path: Path) -> Iterator[Pair]:
    """Read JSON lines of ``query`` and ``positive``, a text or a list of them, and maybe a ``title``.

    EffirError names the line that is otherwise.
    """
    for number, row in enumerate(read_jsonl(_there(path)), start=1):
        place = f"{path}, pair {number},"
        query, title, positives = row.get("query"), row.get("title") or "", row.get("positive")
        texts: list[object] = positives if isinstance(positives, list) else [positives]
        if not isinstance(query, str) or not isinstance(title, str) or not texts:
            raise EffirError(f"{place} has no `query` and `positive`, or a `title` that is no text: mend it")
        for text in texts:
            if not isinstance(text, str):
                raise EffirError(f"{place} has a `positive` that is neither a text nor a list of texts: mend it")
            yield _checked(Pair(query.strip(), title.strip(), text.strip()), True, place)


def collection_of(pairs: Iterable[Pair], others: Iterable[Pair], into: Path, test_share: float) -> Collection:
    """Write pairs, and ``others`` to be searched too, as a collection; equal texts are one document, or one query.

    The share ``test_share`` of the queries is judged as ``test``, the rest as ``train``. Which ones is decided by a
    hash of their text: the same in every copy, and a new pair moves no old one. EffirError where a split is empty that
    should not be.
    """
    documents: dict[tuple[str, str], str] = {}
    queries: dict[str, str] = {}  # equal but for case and spaces is the same question: the first one stands
    ids: dict[str, str] = {}
    judged: dict[str, dict[str, dict[str, int]]] = {"train": {}, "test": {}}
    for pair in chain(pairs, others):
        document = documents.setdefault((pair.title, pair.text), f"d{len(documents) + 1}")
        if pair.query:
            plain = " ".join(pair.query.casefold().split())
            query = ids.setdefault(plain, f"q{len(ids) + 1}")
            queries.setdefault(query, pair.query)
            split = "test" if _place(plain) < test_share else "train"
            judged[split].setdefault(query, {})[document] = 1
    asked: Sequence[str] = [name for name, share in (("train", 1 - test_share), ("test", test_share)) if share]
    if empty := [split for split in asked if not judged[split]]:
        raise EffirError(
            f"none of {len(queries)} queries falls into the split {empty[0]}: give more pairs, or another --test-share"
        )
    return write_collection(
        into,
        (Document(id_, title, text) for (title, text), id_ in documents.items()),
        queries,
        {split: found for split, found in judged.items() if found},
    )


def _there(path: Path) -> Path:
    if not path.is_file():
        raise EffirError(f"{path} is missing: mend the path")
    return path


def _checked(pair: Pair, asked: bool, place: str) -> Pair:
    if not all(map(can_be_written, (pair.query, pair.title, pair.text))):
        raise EffirError(f"{place} holds half a character (a lone surrogate), which no file can: mend it")
    if not (pair.title or pair.text) or (asked and not pair.query):
        raise EffirError(f"{place} lacks {'a query' if asked and not pair.query else 'a document'}: fill or remove it")
    return pair


def _place(query: str) -> float:
    """Place a text between 0 and 1, evenly."""
    return int.from_bytes(hashlib.blake2b(query.encode(), digest_size=8).digest()) / 2**64
