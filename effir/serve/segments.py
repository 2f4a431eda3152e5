"""The segments of a document store: each is a FAISS index, its texts, and the rows that were deleted."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effir.data.beir import Document
from effir.encoding.encoder import Vectors
from effir.encoding.shards import Encoder, Entry
from effir.errors import EffirError
from effir.files import read_jsonl, writing
from effir.index.faiss_index import JsonLines, build_index, open_index
from effir.resume import code_digest

SEGMENTS, WORK = "segments", ".work"
SHARD = 1024  # documents that a killed build has to encode again at most


@dataclass(frozen=True)
class Found:
    """A search result; ``score`` is the cosine with the query."""

    id: str
    title: str
    text: str
    score: float


class Segment:
    """An opened segment; it can be searched also after its files were removed."""

    def __init__(self, folder: Path, name: str, deleted: Sequence[int]) -> None:
        self.deleted = deleted
        try:
            self.index, self._texts = open_index(folder / SEGMENTS / name), JsonLines(texts_of(folder, name))
        except (EffirError, OSError):
            raise EffirError(f"{folder} is damaged, its segment {name} cannot be read: build it again") from None
        if not set(deleted) <= set(range(self.index.count)):
            raise EffirError(f"{folder} is damaged, its segment {name} lacks rows that it deleted: build it again")
        if len(self._texts) != self.index.count:
            raise EffirError(
                f"{folder} is damaged, its segment {name} has {len(self._texts)} texts and {self.index.count} vectors: "
                "build it again"
            )
        self.count = self.index.count - len(deleted)

    def search(self, vectors: Vectors, k: int) -> list[list[Found]]:
        """Return the ``k`` nearest documents of each row that are not deleted, best first."""
        found = self.index.search(vectors, k, without=self.deleted)
        return [[Found(**self._texts[hit.row], score=hit.score) for hit in hits] for hits in found]

    def rows(self) -> list[int]:
        """List the rows that are not deleted."""
        deleted = set(self.deleted)
        return [row for row in range(self.index.count) if row not in deleted]

    def documents(self) -> Iterator[Document]:
        """Yield the documents that are not deleted, in order."""
        return (Document(**self._texts[row]) for row in self.rows())

    def vectors(self) -> Iterator[NDArray[np.float32]]:
        """Yield the vectors of the documents that are not deleted, (dimension,) each."""
        rows = self.rows()
        for start in range(0, len(rows), SHARD):
            yield from self.index.vectors(rows[start : start + SHARD])


def write_segment(
    folder: Path, name: str, documents: Iterable[Document], encode: Encoder, factory: str, key: str, total: int | None
) -> int:
    """Encode documents into a new segment and return their number; ``key`` identifies the model in a resumed build."""
    with writing(texts_of(folder, name)) as draft, draft.open("w", encoding="utf-8", newline="\n") as lines:
        work = folder / WORK / f"{name}-{key}-{code_digest()[:16]}"
        entries, into = _written(documents, lines), folder / SEGMENTS / name
        report = build_index(entries, encode, into, factory=factory, work=work, shard_size=SHARD, total=total)
    return report.documents


def _written(documents: Iterable[Document], lines: Any) -> Iterator[Entry]:
    for document in documents:
        lines.write(f"{json.dumps(asdict(document), ensure_ascii=False)}\n")
        yield document.id, document.title, document.content


def texts_of(folder: Path, name: str) -> Path:
    """Return the file of a segment's documents, a JSON object a line."""
    return folder / SEGMENTS / f"{name}.texts.jsonl"


def ids_of(folder: Path, name: str) -> Iterator[str]:
    """Yield the ids of a segment's documents, deleted ones too."""
    return (row["id"] for row in read_jsonl(texts_of(folder, name)))
