"""What is wrong with a collection in BEIR layout, all of it at once, and what to do about it."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from effir.data.beir import CORPUS, HEADER, QRELS, QUERIES
from effir.data.tables import can_be_written
from effir.errors import EffirError

Kind = Literal["error", "warning"]
# A fault, whether the pipeline would stop or judge wrongly because of it, and the cure.
FAULTS: Mapping[str, tuple[Kind, str]] = {
    "not JSON": ("error", "write one JSON object a line, in UTF-8"),
    "no _id": ("error", "give each an `_id`, a text or a whole number"),
    "no text": ("error", "give each a `text`, a string"),
    "an _id that another has": ("error", "give each its own, in qrels too"),
    "an empty text": ("error", "remove them, and their judgements"),
    "a text that another has": ("warning", "keep one of each, and judge that: they tie in every ranking"),
    "a question that another asks": ("warning", "keep one of each, with the judgements of both"),
    "never judged": ("warning", "remove them, or add judgements: they are not asked"),
    "no header": ("error", f"begin with {' '.join(HEADER)}, tab-separated"),
    "no judgement": ("error", "write `query id, document id, whole grade`, tab-separated"),
    "not one judgement": ("error", "write some, or remove the file"),
    "a query that is not there": ("error", f"add it to {QUERIES}, or remove its judgements"),
    "a document that is not there": ("error", f"add it to {CORPUS}, or remove the judgement: it can never be found"),
    "judged before": ("warning", "keep one judgement of each pair: the last one counts"),
    "no answer": ("warning", "add a grade above 0, or remove them: they score 0 whatever is found"),
    "a query of train": ("error", "keep it in one of them: what was trained on must not be judged"),
    "a query of another split": ("warning", "keep it in one of them"),
}


@dataclass
class Finding:
    """A fault in a file, how often it is there, and one place as an example."""

    file: str
    fault: str
    example: str
    count: int = 1

    @property
    def kind(self) -> Kind:
        """``error`` where the pipeline would stop or judge wrongly, ``warning`` otherwise."""
        return FAULTS[self.fault][0]

    @property
    def cure(self) -> str:
        """What to do."""
        return FAULTS[self.fault][1]

    def __str__(self) -> str:
        """Say it in a line."""
        return f"{self.kind}: {self.file}: {self.fault} ({self.count:,}), e.g. {self.example}: {self.cure}"


@dataclass
class Report:
    """What was read of a collection, and what is wrong with it."""

    documents: int = 0
    queries: int = 0
    judged: dict[str, int] = field(default_factory=dict)
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
        """The findings that must be mended."""
        return [finding for finding in self.findings if finding.kind == "error"]


def check_collection(folder: Path) -> Report:
    """Read a collection once and report all that is wrong with it; EffirError where it is none.

    The corpus is streamed: only ids and digests are kept.
    """
    lacking = [name for name in (CORPUS, QUERIES) if not (folder / name).is_file()]
    splits = sorted((folder / QRELS).glob("*.tsv"))
    if lacking or not splits:
        what = lacking[0] if lacking else f"{QRELS}/<split>.tsv"
        raise EffirError(f"{folder} is no BEIR collection: {what} is missing (corpus.jsonl, queries.jsonl, qrels/)")
    report = Report()
    documents = set(_texts(folder / CORPUS, report))
    queries = _texts(folder / QUERIES, report)
    report.documents, report.queries = len(documents), len(queries)
    judged = {path.stem: _judgements(path, documents, queries, report) for path in splits}
    report.judged = {split: len(found) for split, found in judged.items()}
    for query in sorted(queries.keys() - set().union(*judged.values())):
        report.note(QUERIES, "never judged", repr(query))
    for one, other in combinations(sorted(judged, key=lambda split: split != "train"), 2):
        fault = "a query of train" if one == "train" else "a query of another split"
        for example in _shared(one, judged[one], judged[other], queries):
            report.note(f"{QRELS}/{other}.tsv", fault, example)
    return report


def _texts(path: Path, report: Report) -> dict[str, bytes]:
    """Read a file of texts: id to the digest of what it says, case and spaces aside."""
    found: dict[str, bytes] = {}
    seen: set[bytes] = set()
    for number, row in _rows(path):
        where = f"line {number}"
        if row is None:
            report.note(path.name, "not JSON", where)
        elif not isinstance(row.get("_id"), str | int) or row["_id"] == "":
            report.note(path.name, "no _id", where)
        elif not all(map(_is_text, (row.get("text"), row.get("title", "")))):
            report.note(path.name, "no text", where)
        else:
            id_, words = str(row["_id"]), f"{row.get('title', '')} {row['text']}".casefold().split()
            digest = hashlib.blake2b(" ".join(words).encode(), digest_size=16).digest()
            if id_ in found:
                report.note(path.name, "an _id that another has", f"{id_!r}, {where}")
            elif not words:
                report.note(path.name, "an empty text", f"{id_!r}, {where}")
            elif digest in seen:
                twice = "a question that another asks" if path.name == QUERIES else "a text that another has"
                report.note(path.name, twice, f"{id_!r}, {where}")
            found.setdefault(id_, digest)
            seen.add(digest)
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str) and can_be_written(value)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    row = json.loads(line.decode("utf-8"))
                except ValueError:  # not UTF-8 is one too
                    row = None
                yield number, row if isinstance(row, dict) else None


def _judgements(path: Path, documents: set[str], queries: Mapping[str, bytes], report: Report) -> set[str]:
    name = f"{QRELS}/{path.name}"
    grades: dict[tuple[str, str], int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        cells, where = line.split("\t"), f"line {number}"
        is_judgement = len(cells) == 3 and re.fullmatch(r"\s*-?[0-9]+\s*", cells[2]) is not None
        if number == 1:
            if is_judgement:
                report.note(name, "no header", where)
            continue
        if not line.strip():
            continue
        if not is_judgement:
            report.note(name, "no judgement", where)
            continue
        query, document = cells[0], cells[1]
        if query not in queries:
            report.note(name, "a query that is not there", f"{query!r}, {where}")
        if document not in documents:
            report.note(name, "a document that is not there", f"{document!r}, {where}")
        if (query, document) in grades:
            report.note(name, "judged before", f"{query!r} and {document!r}, {where}")
        grades[query, document] = int(cells[2])
    asked = {query for query, _ in grades}
    if not asked:
        report.note(name, "not one judgement", "all of it")
    for query in sorted(asked - {query for (query, _), grade in grades.items() if grade > 0}):
        report.note(name, "no answer", repr(query))
    return asked


def _shared(name: str, first: set[str], second: set[str], queries: Mapping[str, bytes]) -> Iterator[str]:
    """Yield the queries of one split that another, ``name``, has too: by their id, or by what they say."""
    said = {queries[query]: query for query in first if query in queries}
    for query in sorted(second):
        twin = query if query in first else said.get(queries.get(query, b""))
        if twin is not None:
            yield f"{query!r}" if twin == query else f"{query!r}, which is {twin!r} in {name}"
