"""An index of one's own documents, which grows and forgets: segments, each a FAISS index, and what was deleted.

``manifest.json`` names the model and the segments that count, so a build or an addition that was killed left nothing
that is found; it goes on where it stopped when it is repeated.
"""

import json
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from effir.data.beir import Document
from effir.encoding.backends import Backend, Precision
from effir.encoding.shards import Entry, Vectors
from effir.errors import EffirError
from effir.files import read_json, read_jsonl, sha256_of, write_json, writing
from effir.index.faiss_index import SearchIndex, build_index, check_growable, open_index

MANIFEST, LOCK, WORK, SEGMENTS, TEXTS = "manifest.json", ".lock", ".work", "segments", "texts.jsonl"
SHARD = 1024
"""Documents that a killed build has to encode again at most."""
MOST_SEGMENTS = 8
"""More are merged: each is searched apart."""
READ = "config.json modules.json tokenizer.json tokenizer_config.json config_sentence_transformers.json".split()
READ += ["1_Pooling/config.json"]

Encode = Callable[[list[str]], Vectors]


@dataclass(frozen=True)
class Model:
    """What made an index's vectors: the model as it was named, where it lies, its fingerprint, and what ran it."""

    name: str
    folder: str
    fingerprint: str
    backend: Backend = "torch"
    precision: Precision = "auto"

    @property
    def key(self) -> str:
        """Name what must be equal for vectors to stand beside each other."""
        return sha256(f"{self.fingerprint} {self.backend} {self.precision}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Manifest:
    """What an index is; ``segments`` maps a segment to its rows that are gone."""

    model: Model
    factory: str
    segments: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """A document that was found; ``score`` is the cosine with the query."""

    id: str
    title: str
    text: str
    score: float


def fingerprint(retriever: Path) -> str:
    """Tell models apart by what decides their vectors: configuration, weights, and how texts are read and pooled."""
    parts = [*READ, *sorted(path.name for path in retriever.glob("*.safetensors"))]
    found = ":".join(sha256_of(retriever / name) for name in parts if (retriever / name).is_file())
    return sha256(found.encode()).hexdigest()


def create_index(folder: Path, documents: Iterable[Document], encode: Encode, model: Model, factory: str) -> int:
    """Encode documents into a new index; returns their number. A killed build is repeated to go on.

    EffirError: an index that is there already, a factory that cannot grow, documents that are none.
    """
    check_growable(factory)
    if folder.exists() and not folder.is_dir():
        raise EffirError(f"{folder} is a file: name a folder for the index")
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if (folder / MANIFEST).exists():
            raise EffirError(f"{folder} holds an index already: add to it, or remove it")
        manifest = Manifest(model, factory)
        count = _segment(folder, "0001", documents, encode, manifest)
        _write(folder, replace(manifest, segments={"0001": []}))
    return count


def add_documents(folder: Path, documents: Iterable[Document], encode: Encode) -> tuple[int, int]:
    """Add documents; one with an id that is there takes its place. Returns how many were added, and took a place."""
    with _locked(folder):
        manifest = read_manifest(folder)
        name = _next(manifest.segments)
        count = _segment(folder, name, documents, encode, manifest)
        gone, replaced = _without(folder, manifest, set(_ids(folder, name)))
        segments = {**gone, name: []}
        if len(segments) > MOST_SEGMENTS:
            segments = _merged(folder, replace(manifest, segments=segments))
        _write(folder, replace(manifest, segments=segments))
        _tidy(folder, segments)
    return count, replaced


def delete_documents(folder: Path, ids: Collection[str]) -> int:
    """Forget documents by their ids; returns how many there were. EffirError where one of them is not there."""
    with _locked(folder):
        manifest, wanted = read_manifest(folder), set(ids)
        gone, count = _without(folder, manifest, wanted)
        if count < len(wanted):
            missing = min(wanted - {id_ for name in manifest.segments for id_ in _living(folder, name, manifest)})
            raise EffirError(f"{folder} has no document {missing!r}: nothing was deleted")
        _write(folder, replace(manifest, segments=gone))
    return count


def read_manifest(folder: Path) -> Manifest:
    """Read what an index is; EffirError where there is none."""
    if not (folder / MANIFEST).is_file():
        raise EffirError(f"{folder} holds no index: make one by `effir index build`")
    try:
        found = read_json(folder / MANIFEST)
        return Manifest(Model(**found["model"]), found["factory"], found["segments"])
    except (TypeError, KeyError):
        raise EffirError(
            f"{folder / MANIFEST} is not of an index that `effir index build` made: name another folder"
        ) from None


def checked_retriever(model: Model) -> Path:
    """Return the folder of the model that made an index; EffirError where it is gone, or another by now."""
    folder = Path(model.folder)
    if not (folder / "modules.json").is_file():
        raise EffirError(f"the index's model, {model.name}, is not in {folder} any more: build the index again")
    if fingerprint(folder) != model.fingerprint:
        raise EffirError(f"{folder} holds another model than the one that made the index: build the index again")
    return folder


class DocumentStore:
    """An opened index; texts stay on disk and are read for what is found alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest, opened = _opened(folder)
        self._segments = [segment for segment in opened if segment.count]
        self.count = sum(segment.count for segment in self._segments)

    def search(self, vectors: Vectors, k: int) -> list[list[Found]]:
        """Return each row's ``k`` nearest over all segments, best first, for (queries, dimension) float32."""
        if not self._segments:
            return [[] for _ in vectors]
        by_segment = [segment.search(vectors, k) for segment in self._segments]
        every_row = ([hit for hits in found for hit in hits] for found in zip(*by_segment, strict=True))
        return [sorted(hits, key=lambda hit: -hit.score)[:k] for hits in every_row]


def _opened(folder: Path) -> tuple[Manifest, list["_Segment"]]:
    """Open the segments that the manifest names; those of the next one where another process merged them meanwhile."""
    manifest = read_manifest(folder)
    while True:
        try:
            return manifest, [_Segment(folder, name, dead) for name, dead in manifest.segments.items()]
        except EffirError:
            before, manifest = manifest, read_manifest(folder)
            if manifest == before:
                raise


class _Segment:
    def __init__(self, folder: Path, name: str, dead: Sequence[int]) -> None:
        self.dead, self._path = dead, _texts(folder, name)
        try:
            self.index: SearchIndex = open_index(folder / SEGMENTS / name)
            with self._path.open("rb") as lines:
                self._ends = np.cumsum(np.fromiter(map(len, lines), dtype=np.int64))
        except (EffirError, OSError):
            raise EffirError(f"{folder} is damaged, its segment {name} cannot be read: build it again") from None
        if len(self._ends) != self.index.count:
            raise EffirError(f"{folder} is damaged, its segment {name} has other texts than vectors: build it again")
        self.count = self.index.count - len(dead)

    def search(self, vectors: Vectors, k: int) -> list[list[Found]]:
        found = self.index.search(vectors, k, without=self.dead)
        with self._path.open("rb") as lines:
            return [[self._read(lines, hit.row, hit.score) for hit in hits] for hits in found]

    def rows(self) -> list[int]:
        """List the rows that are left."""
        dead = set(self.dead)
        return [row for row in range(self.index.count) if row not in dead]

    def living(self) -> Iterator[Document]:
        """Yield the documents that are left, in their order."""
        dead = set(self.dead)
        return (Document(**each) for row, each in enumerate(read_jsonl(self._path)) if row not in dead)

    def vectors(self, rows: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        """Yield the vectors of some rows, (dimension,) each."""
        for start in range(0, len(rows), SHARD):
            yield from self.index.vectors(rows[start : start + SHARD])

    def _read(self, lines: Any, row: int, score: float) -> Found:
        start = int(self._ends[row - 1]) if row else 0
        lines.seek(start)
        return Found(**json.loads(lines.read(int(self._ends[row]) - start)), score=score)


def _segment(folder: Path, name: str, documents: Iterable[Document], encode: Encode, manifest: Manifest) -> int:
    with writing(_texts(folder, name)) as draft, draft.open("w", encoding="utf-8", newline="\n") as lines:
        entries, into = _noted(documents, lines), folder / SEGMENTS / name
        work = folder / WORK / f"{name}-{manifest.model.key}"
        report = build_index(entries, encode, into, factory=manifest.factory, work=work, shard_size=SHARD)
    return report.documents


def _noted(documents: Iterable[Document], lines: Any) -> Iterator[Entry]:
    for document in documents:
        lines.write(f"{json.dumps(asdict(document), ensure_ascii=False)}\n")
        yield document.id, document.title, document.content


def _merged(folder: Path, manifest: Manifest) -> dict[str, list[int]]:
    """Make one segment of all that hold at most half of the documents, without encoding again; returns those left."""
    opened = {name: _Segment(folder, name, dead) for name, dead in manifest.segments.items()}
    half = sum(segment.count for segment in opened.values()) / 2
    large = {name: list(segment.dead) for name, segment in opened.items() if segment.count > half}
    small = [(segment, segment.rows()) for name, segment in opened.items() if name not in large]
    if not any(rows for _, rows in small):
        return large
    documents = (document for segment, _ in small for document in segment.living())
    vectors = (vector for segment, rows in small for vector in segment.vectors(rows))
    shutil.rmtree(folder / WORK, ignore_errors=True)  # a finished shard would not take its vectors
    name = _next(manifest.segments)
    _segment(folder, name, documents, lambda texts: np.stack(list(islice(vectors, len(texts)))), manifest)
    return {**large, name: []}


def _tidy(folder: Path, kept: Mapping[str, object]) -> None:
    """Remove the segments that do not count; one that a service still reads stays readable to it."""
    for path in (folder / SEGMENTS).iterdir():
        if path.name.partition(".")[0] not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _next(segments: Mapping[str, object]) -> str:
    return f"{max(map(int, segments), default=0) + 1:04d}"


def _texts(folder: Path, name: str) -> Path:
    return folder / SEGMENTS / f"{name}.{TEXTS}"


def _ids(folder: Path, name: str) -> Iterator[str]:
    return (row["id"] for row in read_jsonl(_texts(folder, name)))


def _living(folder: Path, name: str, manifest: Manifest) -> Iterator[str]:
    dead = set(manifest.segments[name])
    return (id_ for row, id_ in enumerate(_ids(folder, name)) if row not in dead)


def _without(folder: Path, manifest: Manifest, ids: Collection[str]) -> tuple[dict[str, list[int]], int]:
    """Mark ids as gone in every segment that has them; returns the segments, and how many there were."""
    segments, count = {}, 0
    for name, dead in manifest.segments.items():
        before = set(dead)
        newly = [row for row, id_ in enumerate(_ids(folder, name)) if id_ in ids and row not in before]
        segments[name] = [*dead, *newly]
        count += len(newly)
    return segments, count


def _write(folder: Path, manifest: Manifest) -> None:
    write_json(folder / MANIFEST, asdict(manifest))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if not folder.is_dir():
        raise EffirError(f"{folder} holds no index: make one by `effir index build`")
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout:
        raise EffirError(f"{folder} is being changed by another process: wait for it") from None
