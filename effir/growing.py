"""An index of one's own documents, which grows and forgets: segments, each a FAISS index, and what was deleted.

``manifest.json`` names the model and the segments that count, so a build or an addition that was killed left nothing
that is found; it goes on where it stopped when it is repeated.
"""

import json
import mmap
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from effir.data.beir import Document
from effir.errors import EffirError
from effir.files import read_json, read_jsonl, sha256_of, write_json, writing
from effir.search import SearchIndex, build_index, check_factory, open_index
from effir.shards import Entry, Vectors

MANIFEST, LOCK, WORK, SEGMENTS, TEXTS = "manifest.json", ".lock", ".work", "segments", "texts.jsonl"
SHARD = 1024
"""Documents that a killed build has to encode again at most."""

Encode = Callable[[list[str]], Vectors]


@dataclass(frozen=True)
class Manifest:
    """What an index is: the model as it was named, where it lies and its fingerprint, the kind of its segments.

    ``segments`` maps a segment to the ids in it that are gone.
    """

    model: str
    folder: str
    fingerprint: str
    factory: str
    segments: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """A document that was found; ``score`` is the cosine with the query, for a quantised index its estimate."""

    id: str
    title: str
    text: str
    score: float


def fingerprint(retriever: Path) -> str:
    """Tell models apart by what decides their vectors: configuration, weights, and how texts are read."""
    parts = ["config.json", "modules.json", "tokenizer.json", *sorted(p.name for p in retriever.glob("*.safetensors"))]
    return ":".join(sha256_of(retriever / name)[:16] for name in parts if (retriever / name).is_file())


def create_index(
    folder: Path, documents: Iterable[Document], encode: Encode, model: str, retriever: Path, factory: str
) -> int:
    """Encode documents into a new index; returns their number. A killed build is repeated to go on.

    EffirError: an index that is there already, a factory that FAISS does not know, documents that are none.
    """
    check_factory(factory)
    if (folder / MANIFEST).exists():
        raise EffirError(f"{folder} holds an index already: add to it, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(model, str(retriever.resolve()), fingerprint(retriever), factory)
    with _locked(folder):
        count = _segment(folder, "0001", documents, encode, factory)
        write_json(folder / MANIFEST, asdict(replace(manifest, segments={"0001": []})))
    return count


def add_documents(folder: Path, documents: Iterable[Document], encode: Encode) -> tuple[int, int]:
    """Add documents; one with an id that is there takes its place. Returns how many were added, and took a place."""
    with _locked(folder):
        manifest = read_manifest(folder)
        name = f"{len(manifest.segments) + 1:04d}"
        count = _segment(folder, name, documents, encode, manifest.factory)
        gone, replaced = _without(folder, manifest, set(_ids(folder, name)))
        write_json(folder / MANIFEST, asdict(replace(manifest, segments={**gone, name: []})))
    return count, replaced


def delete_documents(folder: Path, ids: Collection[str]) -> int:
    """Forget documents by their ids; returns how many there were. EffirError where one of them is not there."""
    with _locked(folder):
        manifest = read_manifest(folder)
        gone, count = _without(folder, manifest, set(ids))
        if count < len(set(ids)):
            there = {id_ for name, dead in manifest.segments.items() for id_ in set(_ids(folder, name)) - set(dead)}
            missing = sorted(set(ids) - there)
            raise EffirError(f"{folder} has no document {missing[0]!r}: nothing was deleted")
        write_json(folder / MANIFEST, asdict(replace(manifest, segments=gone)))
    return count


def read_manifest(folder: Path) -> Manifest:
    """Read what an index is; EffirError where there is none."""
    if not (folder / MANIFEST).is_file():
        raise EffirError(f"{folder} holds no index: make one by `effir index build`")
    try:
        return Manifest(**read_json(folder / MANIFEST, made_by="index"))
    except (TypeError, ValueError):
        raise EffirError(f"{folder / MANIFEST} is not of an index that `effir index build` made") from None


def checked_retriever(manifest: Manifest) -> Path:
    """Return the folder of the model that made an index; EffirError where it is gone, or another by now."""
    folder = Path(manifest.folder)
    if not (folder / "modules.json").is_file():
        raise EffirError(
            f"the model of the index, {manifest.model}, is not in {folder} any more: build the index again"
        )
    if fingerprint(folder) != manifest.fingerprint:
        raise EffirError(f"{folder} holds another model than the one that made the index: build the index again")
    return folder


class GrowingIndex:
    """An opened index; texts stay on disk and are read for what is found alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self._segments = [_Segment(folder, name, set(dead)) for name, dead in self.manifest.segments.items()]
        self.count = sum(segment.count for segment in self._segments)

    def search(self, vectors: Vectors, k: int) -> list[list[Found]]:
        """Return each row's ``k`` nearest over all segments, best first, for (queries, dimension) float32."""
        by_segment = [segment.search(vectors, k) for segment in self._segments]
        every_row = ([hit for hits in found for hit in hits] for found in zip(*by_segment, strict=True))
        return [sorted(hits, key=lambda hit: -hit.score)[:k] for hits in every_row]


class _Segment:
    def __init__(self, folder: Path, name: str, dead: set[str]) -> None:
        self.index: SearchIndex = open_index(folder / SEGMENTS / name)
        self.dead = dead
        self.count = self.index.count - len(dead)
        self._texts = _Lines(folder / SEGMENTS / f"{name}.{TEXTS}")

    def search(self, vectors: Vectors, k: int) -> list[list[Found]]:
        found = self.index.search(vectors, k + len(self.dead))
        return [[self._read(hit.id, hit.score) for hit in hits if hit.id not in self.dead][:k] for hits in found]

    def _read(self, id_: str, score: float) -> Found:
        row = self._texts[id_]
        return Found(id_, row["title"], row["text"], score)


class _Lines:
    """JSON objects by their ``id``, on disk; ends of lines and ids are in memory."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as stream:
            ends = np.cumsum(np.fromiter(map(len, stream), dtype=np.int64))
            self._lines = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._starts = np.concatenate([[0], ends])
        self._row = {json.loads(self._line(row))["id"]: row for row in range(len(ends))}

    def __getitem__(self, id_: str) -> dict[str, str]:
        row: dict[str, str] = json.loads(self._line(self._row[id_]))
        return row

    def _line(self, row: int) -> bytes:
        return self._lines[int(self._starts[row]) : int(self._starts[row + 1])]


def _segment(folder: Path, name: str, documents: Iterable[Document], encode: Encode, factory: str) -> int:
    texts = folder / SEGMENTS / f"{name}.{TEXTS}"
    with writing(texts) as draft, draft.open("w", encoding="utf-8", newline="\n") as lines:
        entries = _noted(documents, lines)
        into, work = folder / SEGMENTS / name, folder / WORK / name
        report = build_index(entries, encode, into, factory=factory, work=work, shard_size=SHARD)
    return report.documents


def _noted(documents: Iterable[Document], lines: Any) -> Iterator[Entry]:
    for document in documents:
        lines.write(json.dumps({"id": document.id, "title": document.title, "text": document.text}, ensure_ascii=False))
        lines.write("\n")
        yield document.id, document.title, document.content


def _ids(folder: Path, name: str) -> Iterator[str]:
    return (row["id"] for row in read_jsonl(folder / SEGMENTS / f"{name}.{TEXTS}"))


def _without(folder: Path, manifest: Manifest, ids: Collection[str]) -> tuple[dict[str, list[str]], int]:
    """Mark ids as gone in every segment that has them; returns the segments, and how many there were."""
    segments, count = {}, 0
    for name, dead in manifest.segments.items():
        newly: Sequence[str] = sorted({id_ for id_ in _ids(folder, name) if id_ in ids} - set(dead))
        segments[name] = [*dead, *newly]
        count += len(newly)
    return segments, count


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if not folder.is_dir():
        raise EffirError(f"{folder} holds no index: make one by `effir index build`")
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout:
        raise EffirError(f"{folder} is being changed by another process: wait for it") from None
