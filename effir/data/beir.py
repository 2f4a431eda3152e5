"""A retrieval collection in BEIR layout: corpus, queries and relevance judgements (qrels).

``corpus.jsonl`` (``_id``, ``title``, ``text``), ``queries.jsonl`` (``_id``, ``text``) and ``qrels/<split>.tsv``
(a header, then query id, document id, grade). A corpus may hold millions of documents, so it is always streamed.
`docs/decisions/0017-beir.md` says why BEIR's own loader does not read it.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effir.errors import EffirError
from effir.files import read_jsonl, write_jsonl, writing

CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels"
HEADER = ("query-id", "corpus-id", "score")
SELF_RETRIEVAL = ("arguana", "quora")  # BEIR's sets in which a document with a query's id is that query
LAYOUT = "corpus.jsonl, queries.jsonl and qrels/<split>.tsv"


@dataclass(frozen=True)
class Document:
    """One text of a corpus."""

    id: str
    title: str
    text: str

    @property
    def content(self) -> str:
        """Title and text, which are embedded together (EffiR, appendix; BEIR's convention).

        >>> Document("1", "", "Cells divide.").content
        'Cells divide.'
        """
        return f"{self.title} {self.text}".strip()

    def is_copy_of(self, query: str) -> bool:
        """Return whether ``query`` is this text, with or without the title; case and spaces are ignored."""
        return folded(query) in (folded(self.text), folded(self.content))


@dataclass(frozen=True)
class Collection:
    """A folder in BEIR layout. Every method reads the files again: nothing is kept in memory."""

    folder: Path

    @property
    def splits(self) -> list[str]:
        """The splits that have qrels, sorted."""
        return sorted(path.stem for path in (self.folder / QRELS).glob("*.tsv"))

    def evaluation_split(self) -> str:
        """Name the split to evaluate on: ``test``, otherwise ``dev``; EffirError if there is neither."""
        for split in ("test", "dev"):
            if split in self.splits:
                return split
        raise EffirError(f"{self.folder / QRELS} has neither test.tsv nor dev.tsv: add qrels to evaluate on")

    def documents(self) -> Iterator[Document]:
        """Stream the corpus in file order; EffirError names a row without ``_id`` or ``text``."""
        for number, row in enumerate(read_jsonl(self.folder / CORPUS), start=1):
            place = f"{self.folder / CORPUS}, document {number},"
            title = "" if row.get("title") is None else _text(row, "title", place)
            yield Document(_id(row, place), title, _text(row, "text", place))

    def queries(self, split: str) -> dict[str, str]:
        """Query id to text, for the queries of ``split``, in the order of ``queries.jsonl``.

        EffirError if the qrels name a query that is missing.
        """
        judged, texts = self.qrels(split), dict[str, str]()
        for number, row in enumerate(read_jsonl(self.folder / QUERIES), start=1):
            place = f"{self.folder / QUERIES}, query {number},"
            id_, text = _id(row, place), _text(row, "text", place)
            if id_ in judged:
                texts[id_] = text
        for missing in judged.keys() - texts.keys():
            lacking = f"which {self.folder / QUERIES} lacks: add the query, or remove its qrels"
            raise EffirError(f"{self._qrels_file(split)} judges query {missing!r}, {lacking}")
        return texts

    def qrels(self, split: str) -> dict[str, dict[str, int]]:
        """Query id to document id to grade, in file order; EffirError names a missing split or a malformed line."""
        path = self._qrels_file(split)
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise EffirError(f"{path} is not UTF-8 text ({error.reason}): convert it") from None
        if lines[0].split("\t")[-1].lstrip("-").isdigit():
            header = f"begin the file with {' '.join(HEADER)}, tab-separated"
            raise EffirError(f"{path}, line 1, is a row of qrels where the header should be: {header}")
        found: dict[str, dict[str, int]] = {}
        for number, line in enumerate(lines[1:], start=2):
            if line.strip():
                try:
                    query, document, grade = line.split("\t")
                    found.setdefault(query, {})[document] = int(grade)
                except ValueError:
                    wanted = "`query id, document id, integer grade`, tab-separated"
                    raise EffirError(f"{path}, line {number}, is not {wanted}: correct or remove it") from None
        return found

    def copies(self, split: str, run: Mapping[str, Container[str]]) -> set[str]:
        """Return the queries that are documents too and find themselves: in ``run`` (query id to document ids).

        Ids of queries and of documents may be unrelated (both count from 1), so a document with a query's id is the
        query only if it has its text and is not judged relevant, or in the sets :data:`SELF_RETRIEVAL`.
        """
        found = {query for query, hits in run.items() if query in hits}
        if not found or self.folder.name in SELF_RETRIEVAL:
            return found
        texts, qrels = self.queries(split), self.qrels(split)
        alike = (d for d in self.documents() if d.id in found and d.is_copy_of(texts[d.id]))
        return {d.id for d in alike if qrels[d.id].get(d.id, 0) <= 0}

    def _qrels_file(self, split: str) -> Path:
        if split not in self.splits:
            raise EffirError(f"{self.folder} has no split {split!r}: choose one of {', '.join(self.splits)}")
        return self.folder / QRELS / f"{split}.tsv"


def folded(text: str) -> str:
    """Return a text without differences of case and spaces.

    >>> folded(" Do  CELLS divide?")
    'do cells divide?'
    """
    return " ".join(text.casefold().split())


def open_collection(folder: Path, named: str = "") -> Collection:
    """Open a collection on disk; EffirError says which file is missing in ``named``, by default the folder."""
    collection = Collection(folder)
    missing = [name for name in (CORPUS, QUERIES) if not (folder / name).is_file()]
    if not collection.splits:
        missing.append(f"{QRELS}/<split>.tsv")
    if missing:
        raise EffirError(f"{named or folder} is not a BEIR collection: {missing[0]} is missing (it needs {LAYOUT})")
    return collection


def write_collection(
    folder: Path,
    documents: Iterable[Document],
    queries: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, Mapping[str, int]]],
) -> Collection:
    """Write a collection atomically, replacing ``folder``; equal input gives equal bytes.

    ``documents`` are streamed once, ``queries`` map an id to its text, ``qrels`` a split to query id to document id to
    grade; all keep their order. EffirError if the qrels name an unknown query.
    """
    if not qrels:
        raise EffirError(f"{folder} would have no qrels: give at least one split")
    for split, judged in qrels.items():
        for missing in judged.keys() - queries.keys():
            lacking = "which is not among the queries: add the query, or remove its qrels"
            raise EffirError(f"{folder}: split {split!r} judges query {missing!r}, {lacking}")
    with writing(folder) as draft:
        (draft / QRELS).mkdir(parents=True)
        write_jsonl(draft / CORPUS, ({"_id": d.id, "title": d.title, "text": d.text} for d in documents))
        write_jsonl(draft / QUERIES, ({"_id": id_, "text": text} for id_, text in queries.items()))
        for split, judged in qrels.items():
            rows = [HEADER, *((q, d, str(grade)) for q, grades in judged.items() for d, grade in grades.items())]
            text = "".join("\t".join(row) + "\n" for row in rows)
            (draft / QRELS / f"{split}.tsv").write_text(text, encoding="utf-8", newline="\n")
    return open_collection(folder)


def read_by_beir(folder: Path, split: str) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """Read queries and qrels by BEIR's own loader, as other tools see the collection; it raises what it likes."""
    from beir.datasets.data_loader import GenericDataLoader

    loader = GenericDataLoader(str(folder))
    loader.corpus = {"not loaded": {}}  # load() skips a corpus that it has: this one may not fit in memory
    _, queries, qrels = loader.load(split)
    return queries, qrels


def _id(row: Mapping[str, Any], place: str) -> str:
    if not isinstance(row.get("_id"), str | int) or row["_id"] == "":
        raise EffirError(f"{place} has no `_id`: add one")
    return str(row["_id"])


def _text(row: Mapping[str, Any], key: str, place: str) -> str:
    text = row.get(key)
    if not isinstance(text, str):
        raise EffirError(f"{place} has no string `{key}`: add one")
    return text
