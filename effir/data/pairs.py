"""Make a collection in BEIR layout of pairs of a question and an answer, from CSV or JSON lines."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from effir.data.beir import Collection, Document, write_collection
from effir.errors import EffirError
from effir.files import can_be_written, read_objects, require, table_rows


@dataclass(frozen=True)
class Columns:
    """The columns of query, document and title in a table; a title is optional."""

    query: str = "query"
    document: str = "document"
    title: str = "title"


PAIR_KEYS = Columns(document="positive")  # of JSON lines, as sentence-transformers has them


@dataclass(frozen=True)
class Pair:
    """A query and a document that answers it; the query is empty for a document without one."""

    query: str
    title: str
    text: str


def pairs_of_table(path: Path, columns: Columns, delimiter: str, asked: bool = True) -> Iterator[Pair]:
    """Read a UTF-8 CSV file with a header, one pair per row; without queries if not ``asked``.

    EffirError names the missing column, or the row that lacks a text.
    """
    wanted = (columns.query, columns.document) if asked else (columns.document,)
    for place, row in table_rows(require(path), wanted, delimiter):
        names = (columns.query, columns.title, columns.document)
        query, title, text = ((row.get(name) or "").strip() for name in names)
        yield _checked(Pair(query if asked else "", title, text), asked, place)


def pairs_of_lines(path: Path, keys: Columns = PAIR_KEYS) -> Iterator[Pair]:
    """Read JSON lines, or a JSON array, of a query, its document (a text or a list of texts) and an optional title.

    EffirError names the first line that is different.
    """
    for number, row in enumerate(read_objects(require(path)), start=1):
        place = f"{path}, pair {number},"
        query, title, positives = row.get(keys.query), row.get(keys.title) or "", row.get(keys.document)
        texts: list[object] = positives if isinstance(positives, list) else [positives]
        if not isinstance(query, str) or not isinstance(title, str) or not texts:
            lacks = f"has no `{keys.query}` and `{keys.document}`, or a `{keys.title}` that is not a text"
            raise EffirError(f"{place} {lacks}, only {', '.join(row) or 'nothing'}: correct it, or name its keys")
        for text in texts:
            if not isinstance(text, str):
                what = f"has a `{keys.document}` that is neither a text nor a list of texts"
                raise EffirError(f"{place} {what}: correct it, or name its keys")
            yield _checked(Pair(query.strip(), title.strip(), text.strip()), True, place)


def collection_of(pairs: Iterable[Pair], others: Iterable[Pair], into: Path, test_share: float) -> Collection:
    """Write ``pairs``, and ``others`` without queries, as a collection; equal texts become one document or one query.

    The share ``test_share`` of the queries goes to the split ``test``, the rest to ``train``. A hash of its text
    decides for each query, so a new pair never moves an old one. EffirError if a split is empty that should not be.
    """
    documents: dict[tuple[str, str], str] = {}
    queries: dict[str, str] = {}  # queries that differ only in case and spaces are one: the first one is kept
    ids: dict[str, str] = {}
    qrels: dict[str, dict[str, dict[str, int]]] = {"train": {}, "test": {}}
    for pair in chain(pairs, others):
        document = documents.setdefault((pair.title, pair.text), f"d{len(documents) + 1}")
        if pair.query:
            plain = " ".join(pair.query.casefold().split())
            query = ids.setdefault(plain, f"q{len(ids) + 1}")
            queries.setdefault(query, pair.query)
            place = int.from_bytes(hashlib.blake2b(plain.encode(), digest_size=8).digest()) / 2**64  # uniform in [0, 1)
            split = "test" if place < test_share else "train"
            qrels[split].setdefault(query, {})[document] = 1
    wanted = [split for split, share in (("train", 1 - test_share), ("test", test_share)) if share]
    if empty := [split for split in wanted if not qrels[split]]:
        raise EffirError(f"the split {empty[0]} gets none of {len(queries)} queries: give more pairs or another share")
    texts = (Document(id_, title, text) for (title, text), id_ in documents.items())
    return write_collection(into, texts, queries, {split: found for split, found in qrels.items() if found})


def _checked(pair: Pair, asked: bool, place: str) -> Pair:
    if not all(map(can_be_written, (pair.query, pair.title, pair.text))):
        raise EffirError(f"{place} has half a character (a lone surrogate), which UTF-8 cannot store: correct it")
    if not (pair.title or pair.text) or (asked and not pair.query):
        raise EffirError(f"{place} lacks {'a query' if asked and not pair.query else 'a document'}: fill or remove it")
    return pair
