"""A retrieval collection in BEIR layout: corpus, queries, judgements; the public sets by name.

``corpus.jsonl`` (``_id``, ``title``, ``text``), ``queries.jsonl`` (``_id``, ``text``) and ``qrels/<split>.tsv``
(a header, then query id, document id, grade). A corpus may hold millions of documents, so it is only ever streamed.
"""

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effir.data.archives import unpack
from effir.data.sources import fetch
from effir.errors import EffirError
from effir.files import read_jsonl, write_jsonl, writing

CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels"
HEADER = ("query-id", "corpus-id", "score")

ADDRESS = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets"
UNPACKED_LIMIT = 20_000_000_000  # bytes; the largest public set unpacks to about a sixth of that
# The 13 public sets that the paper evaluates on, with the MD5 of their archives (BEIR's README).
PUBLIC = {
    "trec-covid": "ce62140cb23feb9becf6270d0d1fe6d1",
    "nfcorpus": "a89dba18a62ef92f7d323ec890a0d38d",
    "nq": "d4d3d2e48787a744b6f6e691ff534307",
    "hotpotqa": "f412724f78b0d91183a0e86805e16114",
    "fiqa": "17918ed23cd04fb15047f73e6c3bd9d9",
    "arguana": "8ad3e3c2a5867cdced806d6503f29b99",
    "webis-touche2020": "46f650ba5a527fc69e0a6521c5a23563",
    "quora": "18fb154900ba42a600f84b839c173167",
    "dbpedia-entity": "c2a39eb420a3164af735795df012ac2c",
    "scidocs": "38121350fc3a4d2f48850f6aff52e4a9",
    "fever": "5a818580227bfb4b35bb6fa46d9b6c03",
    "climate-fever": "8b66f0a9126c521bae2bde127b4dc99d",
    "scifact": "5f7d1de60b170fc8027bb7898e2efca1",
}


@dataclass(frozen=True)
class Document:
    """One text of a corpus."""

    id: str
    title: str
    text: str

    @property
    def content(self) -> str:
        """What is embedded (EffiR, appendix; BEIR's convention).

        >>> Document("1", "", "Cells divide.").content
        'Cells divide.'
        """
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True)
class Collection:
    """A folder in BEIR layout; every method reads it afresh, nothing is kept in memory."""

    folder: Path

    @property
    def splits(self) -> list[str]:
        """The splits that have judgements, sorted."""
        return sorted(path.stem for path in (self.folder / QRELS).glob("*.tsv"))

    def evaluation_split(self) -> str:
        """Name the split to judge by: ``test`` where it is judged, otherwise ``dev``; EffirError where neither is."""
        for split in ("test", "dev"):
            if split in self.splits:
                return split
        raise EffirError(f"{self.folder / QRELS} has neither test.tsv nor dev.tsv: add judgements to evaluate on")

    def documents(self) -> Iterator[Document]:
        """Stream the corpus in file order; EffirError names a row without ``_id`` or ``text``."""
        for number, row in enumerate(read_jsonl(self.folder / CORPUS), start=1):
            place = f"{self.folder / CORPUS}, document {number},"
            yield Document(_id(row, place), _text(row, "title", place, default=""), _text(row, "text", place))

    def queries(self, split: str) -> dict[str, str]:
        """Query id to text, for the queries judged in ``split``, in the order of ``queries.jsonl``.

        EffirError where a judgement names a query that is not there.
        """
        judged = self.judgements(split)
        found = {id_: text for id_, text in self._all_queries() if id_ in judged}
        for missing in judged.keys() - found.keys():
            raise EffirError(
                f"{self._qrels(split)} judges query {missing!r}, which {self.folder / QUERIES} lacks: "
                "add the query or remove its judgements"
            )
        return found

    def judgements(self, split: str) -> dict[str, dict[str, int]]:
        """Query id to document id to grade, in file order; EffirError names a missing split or a malformed line."""
        judged: dict[str, dict[str, int]] = {}
        for number, line in enumerate(self._lines(split), start=1):
            place = f"{self._qrels(split)}, line {number},"
            if number == 1:
                _check_header(line, place)
            elif line.strip():
                query, document, grade = _judgement(line, place)
                judged.setdefault(query, {})[document] = grade
        return judged

    def _all_queries(self) -> Iterator[tuple[str, str]]:
        for number, row in enumerate(read_jsonl(self.folder / QUERIES), start=1):
            place = f"{self.folder / QUERIES}, query {number},"
            yield _id(row, place), _text(row, "text", place)

    def _lines(self, split: str) -> Iterator[str]:
        path = self._qrels(split)
        try:
            with path.open(encoding="utf-8") as lines:
                yield from lines
        except UnicodeDecodeError as error:
            raise EffirError(f"{path} is not UTF-8 text ({error.reason}): convert it") from None

    def _qrels(self, split: str) -> Path:
        if split not in self.splits:
            raise EffirError(f"{self.folder} has no split {split!r}: choose one of {', '.join(self.splits)}")
        return self.folder / QRELS / f"{split}.tsv"


def open_collection(folder: Path) -> Collection:
    """Open a collection on disk; EffirError names what its layout lacks."""
    return _checked(folder, named=str(folder))


def write_collection(
    folder: Path,
    documents: Iterable[Document],
    queries: Mapping[str, str],
    judgements: Mapping[str, Mapping[str, Mapping[str, int]]],
) -> Collection:
    """Write a collection, whole or not at all, in place of what stood there; equal input gives equal bytes.

    ``documents`` are streamed once, ``queries`` map an id to its text, ``judgements`` a split to query id to document
    id to grade; all keep their order. EffirError where a judgement names an unknown query.
    """
    if not judgements:
        raise EffirError(f"{folder} would have no judgements: give it at least one split")
    for split, judged in judgements.items():
        for missing in judged.keys() - queries.keys():
            raise EffirError(
                f"{folder}: split {split!r} judges query {missing!r}, which is not among the queries: add it, or leave "
                "its judgements out"
            )
    with writing(folder) as draft:
        (draft / QRELS).mkdir(parents=True)
        write_jsonl(draft / CORPUS, ({"_id": d.id, "title": d.title, "text": d.text} for d in documents))
        write_jsonl(draft / QUERIES, ({"_id": id_, "text": text} for id_, text in queries.items()))
        for split, judged in judgements.items():
            _write_qrels(draft / QRELS / f"{split}.tsv", judged)
    return open_collection(folder)


def install_collection(
    name: str, into: Path, *, mirror: str, collections: Mapping[str, str], cache: Path
) -> Collection:
    """Bring a collection into folder ``into``, whole or not at all, and open it.

    ``collections`` names own sets: name to the source (``effir.data.sources``) of a folder or zip in BEIR layout. Any
    other name is a public BEIR set, ``<mirror>/<name>.zip``. At BEIR's own address its MD5 is enforced; **from another
    mirror (https or file://) the bytes are taken as they come**: to check them, name the set in ``collections`` with a
    ``#sha256=``. EffirError for an unknown name, and for whatever ``fetch`` and ``unpack`` refuse.
    """
    source = _source_of(name, mirror, collections)
    found = fetch(source, cache)
    if name not in collections and mirror.rstrip("/") == ADDRESS:
        _check_md5(found, name)
    with writing(into) as draft:
        draft.mkdir()
        scratch = draft / "unpacked"
        if found.is_file():
            unpack(found, scratch, UNPACKED_LIMIT)
        _settle(found if found.is_dir() else scratch, draft, named=source)
        shutil.rmtree(scratch, ignore_errors=True)
    return open_collection(into)


def _source_of(name: str, mirror: str, collections: Mapping[str, str]) -> str:
    if name in collections:
        return collections[name]
    if name not in PUBLIC:
        own = f"your own are {', '.join(collections)}; " if collections else ""
        raise EffirError(
            f"there is no collection {name!r}: {own}the public ones are {', '.join(PUBLIC)}; "
            "name a folder or zip of your own under data.collections"
        )
    return f"{mirror.rstrip('/')}/{name}.zip"


def _check_md5(archive: Path, name: str) -> None:
    with archive.open("rb") as stream:
        md5 = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 != PUBLIC[name]:
        archive.unlink()
        raise EffirError(f"{name}.zip came with MD5 {md5}, not {PUBLIC[name]}, and was removed: run again")


def _settle(source: Path, into: Path, named: str) -> None:
    """Copy a collection's own files, and only them, out of a folder that is one or has one as its only such child."""
    inner = [path.parent for path in source.glob(f"*/{CORPUS}")]
    root = inner[0] if len(inner) == 1 and not (source / CORPUS).exists() else source
    _checked(root, named)
    (into / QRELS).mkdir()
    for path in [root / CORPUS, root / QUERIES, *sorted((root / QRELS).glob("*.tsv"))]:
        shutil.copyfile(path, into / path.relative_to(root))


def _checked(folder: Path, named: str) -> Collection:
    for name in (CORPUS, QUERIES):
        if not (folder / name).is_file():
            raise EffirError(f"{named} is no BEIR collection: {name} is missing (corpus.jsonl, queries.jsonl, qrels/)")
    collection = Collection(folder)
    if not collection.splits:
        raise EffirError(f"{named} is no BEIR collection: it has no judgements, qrels/<split>.tsv")
    return collection


def _write_qrels(path: Path, judged: Mapping[str, Mapping[str, int]]) -> None:
    rows = [HEADER, *((q, d, str(grade)) for q, grades in judged.items() for d, grade in grades.items())]
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8", newline="\n")


def _id(row: Mapping[str, Any], place: str) -> str:
    if not isinstance(row.get("_id"), str | int) or row["_id"] == "":
        raise EffirError(f"{place} has no `_id`: give it one")
    return str(row["_id"])


def _text(row: Mapping[str, Any], key: str, place: str, default: str | None = None) -> str:
    text = row.get(key, default)
    if not isinstance(text, str):
        raise EffirError(f"{place} has no string `{key}`: give it one")
    return text


def _check_header(line: str, place: str) -> None:
    if line.rstrip("\r\n").split("\t")[-1].lstrip("-").isdigit():
        raise EffirError(
            f"{place} is a judgement where the header should be: begin with {' '.join(HEADER)}, tab-separated"
        )


def _judgement(line: str, place: str) -> tuple[str, str, int]:
    try:
        query, document, grade = line.rstrip("\r\n").split("\t")
        return query, document, int(grade)
    except ValueError:
        raise EffirError(
            f"{place} is not `query id, document id, whole grade`, tab-separated: mend or remove it"
        ) from None
