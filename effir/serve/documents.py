"""A store of documents to search, to add to and to delete from: a folder of segments and a manifest.

``manifest.json`` names the model and the segments that count. A build or an addition that is killed changes nothing
that is searched; it continues where it stopped when it is repeated.
"""

import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from effir.data.beir import Document
from effir.encoding.encoder import Vectors
from effir.encoding.shards import Encoder, reporting
from effir.errors import EffirError
from effir.files import read_json, write_json
from effir.index.factory import check_addable
from effir.serve.open_model import ServedModel
from effir.serve.segments import SEGMENTS, WORK, Found, Segment, ids_of, write_segment

MANIFEST, LOCK = "manifest.json", ".lock"
MOST_SEGMENTS = 8  # if there are more, small ones are merged: every search searches each segment


@dataclass(frozen=True)
class Manifest:
    """What an index consists of; ``segments`` maps the name of a segment to its deleted rows."""

    model: ServedModel
    factory: str
    segments: dict[str, list[int]]


def create_index(
    folder: Path,
    documents: Iterable[Document],
    encode: Encoder,
    model: ServedModel,
    factory: str,
    total: int | None = None,
) -> int:
    """Encode documents into a new index and return their number. Repeat the call to continue a killed build.

    ``total``, the number of documents, lets the bar show the time left. EffirError: there is an index already,
    documents cannot be added to this kind of index, no documents.
    """
    check_addable(factory)
    if folder.exists() and not folder.is_dir():
        raise EffirError(f"{folder} is a file: name a folder for the index")
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if (folder / MANIFEST).exists():
            raise EffirError(f"{folder} holds an index already: add to it, or remove it")
        count = write_segment(folder, "0001", documents, encode, factory, model.key, total)
        _write(folder, Manifest(model, factory, {"0001": []}))
    return count


def add_documents(
    folder: Path, documents: Iterable[Document], encode: Encoder, total: int | None = None
) -> tuple[int, int]:
    """Add documents; a new document replaces the old one of the same id. Return the numbers added and replaced."""
    with _locked(folder):
        manifest = read_manifest(folder)
        name = _next(manifest.segments)
        count = write_segment(folder, name, documents, encode, manifest.factory, manifest.model.key, total)
        others, replaced = _without(folder, manifest, set(ids_of(folder, name)))
        segments = {**others, name: []}
        if len(segments) > MOST_SEGMENTS:
            segments = _merged(folder, replace(manifest, segments=segments))
        _write(folder, replace(manifest, segments=segments))
        _remove_unused(folder, segments)
    return count, len(replaced)


def delete_documents(folder: Path, ids: Collection[str]) -> int:
    """Delete documents by id and return their number; EffirError, and no change, if an id is missing."""
    with _locked(folder):
        manifest, wanted = read_manifest(folder), set(ids)
        segments, found = _without(folder, manifest, wanted)
        if wanted - found:
            raise EffirError(f"{folder} has no document {min(wanted - found)!r}: nothing was deleted")
        _write(folder, replace(manifest, segments=segments))
    return len(found)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an index; EffirError if there is no index."""
    if not (folder / MANIFEST).is_file():
        raise EffirError(f"{folder} holds no index: make one by `effir index build`")
    try:
        found = read_json(folder / MANIFEST)
        segments = {str(name): [int(row) for row in rows] for name, rows in found["segments"].items()}
        return Manifest(ServedModel(**found["model"]), found["factory"], segments)
    except (TypeError, KeyError, ValueError, AttributeError):
        raise EffirError(
            f"{folder / MANIFEST} does not belong to an index of `effir index build`: name another folder"
        ) from None


class DocumentStore:
    """An opened index of documents."""

    def __init__(self, folder: Path) -> None:
        self.manifest = read_manifest(folder)
        while True:
            try:
                opened = [Segment(folder, name, deleted) for name, deleted in self.manifest.segments.items()]
                break
            except EffirError:
                before, self.manifest = self.manifest, read_manifest(folder)
                if self.manifest == before:  # otherwise another process merged them in the meantime
                    raise
        self._segments = [segment for segment in opened if segment.count]
        self.count = sum(segment.count for segment in self._segments)

    def search(self, vectors: Vectors, k: int) -> list[list[Found]]:
        """Return the ``k`` nearest documents of each row over all segments, for (queries, dimension) float32."""
        if not self._segments:
            return [[] for _ in vectors]
        by_segment = [segment.search(vectors, k) for segment in self._segments]
        every_row = ([hit for hits in found for hit in hits] for found in zip(*by_segment, strict=True))
        return [sorted(hits, key=lambda hit: -hit.score)[:k] for hits in every_row]


def _merged(folder: Path, manifest: Manifest) -> dict[str, list[int]]:
    """Merge the segments that hold at most half of the documents, without encoding; return the segments to keep."""
    opened = {name: Segment(folder, name, deleted) for name, deleted in manifest.segments.items()}
    half = sum(segment.count for segment in opened.values()) / 2
    large = {name: list(segment.deleted) for name, segment in opened.items() if segment.count > half}
    small = [segment for name, segment in opened.items() if name not in large]
    if not (total := sum(segment.count for segment in small)):
        return large
    documents = (document for segment in small for document in segment.documents())
    vectors = (vector for segment in small for vector in segment.vectors())
    shutil.rmtree(folder / WORK, ignore_errors=True)  # a finished shard would not consume its vectors
    name = _next(manifest.segments)
    encode = reporting(lambda texts: np.stack(list(islice(vectors, len(texts)))))
    write_segment(folder, name, documents, encode, manifest.factory, manifest.model.key, total)
    return {**large, name: []}


def _remove_unused(folder: Path, kept: Mapping[str, object]) -> None:
    """Remove the segments that are not in the manifest; a service that has one open can still read it."""
    for path in (folder / SEGMENTS).iterdir():
        if path.name.partition(".")[0] not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _next(segments: Mapping[str, object]) -> str:
    return f"{max(map(int, segments), default=0) + 1:04d}"


def _without(folder: Path, manifest: Manifest, ids: Collection[str]) -> tuple[dict[str, list[int]], set[str]]:
    """Mark ids as deleted in every segment that has them; return the segments and the ids that were found."""
    segments, found = {}, set[str]()
    for name, deleted in manifest.segments.items():
        before = set(deleted)
        newly = {row: id_ for row, id_ in enumerate(ids_of(folder, name)) if id_ in ids and row not in before}
        segments[name] = [*deleted, *newly]
        found.update(newly.values())
    return segments, found


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
        raise EffirError(f"another process is changing {folder}: wait until it has finished") from None
