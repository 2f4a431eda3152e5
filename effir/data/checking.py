"""Find every fault of a collection in BEIR layout in one pass, and say how to fix each."""

import csv
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from effir.data.beir import CORPUS, HEADER, QRELS, QUERIES, folded, open_collection, read_by_beir
from effir.data.sample_size import DIFFERENCE, detectable, queries_needed
from effir.files import MARK, can_be_written

LEAK = "query of the train split"
RANKED, BATCH = 100, 64  # results that the metrics see, and a large batch

Kind = Literal["error", "warning"]
# A fault, its kind (the pipeline would stop or evaluate wrongly: an error), and how to fix it.
FAULTS: Mapping[str, tuple[Kind, str]] = {
    "not JSON": ("error", "write one JSON object per line, in UTF-8"),
    "no _id": ("error", "add an `_id`, a string or an integer"),
    "no text": ("error", "add a `text`, a string"),
    "duplicate _id": ("error", "give each row its own `_id`, in qrels too"),
    "empty text": ("error", "remove the row and its qrels"),
    "longer than the model reads": ("warning", "split it, or raise retriever.max_tokens: only the beginning is read"),
    "duplicate text": ("warning", "keep one document of each text and judge that one: they tie in every ranking"),
    "duplicate question": ("warning", "keep one query of each text, with the qrels of both"),
    "query in the corpus": ("warning", "no fix is needed: it is left out of its own results, unless judged relevant"),
    "document with the id of a query": (
        "warning",
        "use other ids for queries, e.g. q1: BEIR's own tools leave such a document out of the query's results",
    ),
    "query without qrels": ("warning", "add qrels or remove the query: it is not used"),
    "no header": ("error", f"begin the file with {' '.join(HEADER)}, tab-separated"),
    "not a relevance judgement": ("error", "write `query id, document id, integer grade`, tab-separated"),
    "no relevance judgements": ("error", "add qrels, or remove the file"),
    "unknown query": ("error", f"add the query to {QUERIES}, or remove its qrels"),
    "unknown document": ("error", f"add the document to {CORPUS}, or remove its qrels: it can never be found"),
    "duplicate relevance judgement": ("warning", "keep one row for each pair"),
    "two grades for one pair": ("error", "keep one row for each pair: the last one would count"),
    "query without answer": ("warning", "add a grade above 0, or remove the query: it always scores 0"),
    LEAK: ("error", "keep the query in one split: training queries must not be evaluated"),
    "query of another split": ("warning", "keep the query in one split"),
    "BEIR reads something else": ("warning", "remove quotation marks and empty lines, write each `_id` as a string"),
}


@dataclass
class Finding:
    """A fault in a file, how often it occurs, and one place as an example."""

    file: str
    fault: str
    example: str
    count: int = 1

    @property
    def kind(self) -> Kind:
        """``error`` if the pipeline would stop or evaluate wrongly, otherwise ``warning``."""
        return FAULTS[self.fault][0]

    @property
    def cure(self) -> str:
        """How to fix it."""
        return FAULTS[self.fault][1]

    def __str__(self) -> str:
        """Describe it in one line."""
        return f"{self.kind}: {self.file}: {self.fault} ({self.count:,}), e.g. {self.example}: {self.cure}"


@dataclass
class Report:
    """The sizes of a collection (by split: queries with qrels, different relevant documents), and its faults."""

    documents: int = 0
    queries: int = 0
    judged: dict[str, int] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def note(self, file: str, fault: str, example: str) -> None:
        """Count a fault."""
        for finding in self.findings:
            if (finding.file, finding.fault) == (file, fault):
                finding.count += 1
                return
        self.findings.append(Finding(file, fault, example))

    @property
    def errors(self) -> list[Finding]:
        """The findings that must be fixed."""
        return [finding for finding in self.findings if finding.kind == "error"]

    @property
    def evaluated(self) -> str | None:
        """The split that is evaluated, as :meth:`effir.data.beir.Collection.evaluation_split` chooses it."""
        return next((split for split in ("test", "dev") if split in self.judged), None)

    @property
    def notes(self) -> list[str]:
        """What the sizes allow: one sentence each."""
        found = []
        if self.evaluated and (queries := self.judged[self.evaluated]):
            found.append(
                f"{queries:,} {self.evaluated} queries: a paired test detects differences of nDCG@10 of about "
                f"{detectable(queries):.2f} and more; a difference of {DIFFERENCE} needs about "
                f"{queries_needed(DIFFERENCE):,} queries"
            )
        if self.documents <= RANKED:
            found.append(f"{self.documents} documents: Recall@{RANKED} is 1 for every model, so add documents")
        if (answers := self.answers.get("train", 0)) < min(BATCH, self.judged.get("train", 0)):
            found.append(f"the train queries have {answers} different answers: batch_size can be at most that")
        return found


def check_collection(folder: Path, by_beir: bool = True) -> Report:
    """Read a collection once and report every fault; EffirError if a file of the layout is missing.

    The corpus is streamed: only ids and digests are kept. ``by_beir`` reads queries and qrels by BEIR's loader too,
    whose import takes seconds.
    """
    collection, report = open_collection(folder), Report()
    splits = collection.splits
    queries = _texts(folder / QUERIES, report)
    documents = set(_texts(folder / CORPUS, report, queries))
    report.documents, report.queries = len(documents), len(queries)
    judged = {split: _judged(folder / QRELS / f"{split}.tsv", documents, queries, report) for split in splits}
    report.judged = {split: len(found) for split, found in judged.items()}
    for query in sorted(queries.keys() - set().union(*judged.values())):
        report.note(QUERIES, "query without qrels", repr(query))
    for one, other in combinations(sorted(judged, key=lambda split: split != "train"), 2):
        fault = LEAK if one == "train" else "query of another split"
        for example in _shared(one, judged[one], judged[other], queries):
            report.note(f"{QRELS}/{other}.tsv", fault, example)
    for split in splits if by_beir and not report.errors else []:
        try:
            agrees = read_by_beir(folder, split) == (collection.queries(split), collection.qrels(split))
        except (LookupError, ValueError, csv.Error):  # an empty line, an integer `_id`, a lone quotation mark
            agrees = False
        if not agrees:
            report.note(f"{QRELS}/{split}.tsv", "BEIR reads something else", "the whole file")
    return report


def _texts(path: Path, report: Report, queries: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """Map each id of a file of texts to the digest of its text; case and spaces are ignored.

    Of documents, tell those that have the id of one of the ``queries``.
    """
    found, seen = dict[str, bytes](), set[bytes]()
    for number, row in _rows(path):
        where = f"line {number}"
        if row is None:
            report.note(path.name, "not JSON", where)
        elif not isinstance(row.get("_id"), str | int) or row["_id"] == "":
            report.note(path.name, "no _id", where)
        elif not all(isinstance(t, str) and can_be_written(t) for t in (row.get("text"), row.get("title") or "")):
            report.note(path.name, "no text", where)
        else:
            id_, words = str(row["_id"]), folded(f"{row.get('title') or ''} {row['text']}")
            digest = _digest(words)
            if id_ in found:
                report.note(path.name, "duplicate _id", f"{id_!r}, {where}")
            elif not words:
                report.note(path.name, "empty text", f"{id_!r}, {where}")
            elif digest in seen:
                twice = "duplicate question" if path.name == QUERIES else "duplicate text"
                report.note(path.name, twice, f"{id_!r}, {where}")
            if queries and id_ in queries:
                same = queries[id_] in (digest, _digest(folded(row["text"])))
                fault = "query in the corpus" if same else "document with the id of a query"
                report.note(path.name, fault, f"{id_!r}, {where}")
            found.setdefault(id_, digest)
            seen.add(digest)
    return found


def _digest(words: str) -> bytes:
    return hashlib.blake2b(words.encode(), digest_size=16).digest()


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    row = json.loads(line.decode("utf-8").lstrip(MARK))
                except ValueError:  # includes bytes that are not UTF-8
                    row = None
                yield number, row if isinstance(row, dict) else None


def _judged(path: Path, documents: set[str], queries: Mapping[str, bytes], report: Report) -> set[str]:
    """Check the qrels of one split; return the ids of its queries."""
    name = f"{QRELS}/{path.name}"
    grades: dict[tuple[str, str], int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        cells, where = line.split("\t"), f"line {number}"
        is_row = len(cells) == 3 and re.fullmatch(r"\s*-?[0-9]+\s*", cells[2]) is not None
        if number == 1 and is_row:
            report.note(name, "no header", where)
        if number == 1 or not line.strip():
            continue
        if not is_row:
            report.note(name, "not a relevance judgement", where)
            continue
        query, document = cells[0], cells[1]
        if query not in queries:
            report.note(name, "unknown query", f"{query!r}, {where}")
        if document not in documents:
            report.note(name, "unknown document", f"{document!r}, {where}")
        if (pair := (query, document)) in grades:
            fault = "duplicate relevance judgement" if grades[pair] == int(cells[2]) else "two grades for one pair"
            report.note(name, fault, f"{query!r} and {document!r}, {where}")
        grades[pair] = int(cells[2])
    asked = {query for query, _ in grades}
    report.answers[path.stem] = len({document for (_, document), grade in grades.items() if grade > 0})
    if not asked:
        report.note(name, "no relevance judgements", "the whole file")
    for query in sorted(asked - {query for (query, _), grade in grades.items() if grade > 0}):
        report.note(name, "query without answer", repr(query))
    return asked


def _shared(name: str, first: set[str], second: set[str], queries: Mapping[str, bytes]) -> Iterator[str]:
    """Yield the queries of a split that the split ``name`` has too: by id, or by text."""
    ids = {queries[query]: query for query in first if query in queries}
    for query in sorted(second):
        twin = query if query in first else ids.get(queries.get(query, b""))
        if twin is not None:
            yield f"{query!r}" if twin == query else f"{query!r}, which is {twin!r} in {name}"
