"""A corpus as vectors on disk, in numbered shards: an encoding that was killed continues after its last shard."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from effir.encoding.encoder import Report, Vectors
from effir.errors import EffirError
from effir.files import read_json, sha256_of, text_digest, write_json, write_jsonl, writing
from effir.progress import progress

Entry = tuple[str, str, str]
"""A document's id, title and content."""
Encoder = Callable[[list[str], Report], Vectors]
"""Encodes texts as (texts, dimension) float32 and reports how many are done, as TextEncoder's methods do."""


def reporting(encode: Callable[[list[str]], Vectors]) -> Encoder:
    """Make an Encoder of a function that reports nothing: the bar moves once a shard."""

    def encoder(texts: list[str], report: Report) -> Vectors:
        vectors = encode(texts)
        report(len(texts))
        return vectors

    return encoder


@dataclass(frozen=True)
class Shard:
    """One finished piece of the corpus in the work folder.

    ``sha256`` is of its ids, titles and contents, ``written`` of what is in the folder and of these fields.
    """

    number: int
    documents: int
    dimension: int
    sha256: str
    written: str = ""

    def vectors(self, work: Path) -> Path:
        """Return the file of its (documents, dimension) float32."""
        return work / f"vectors-{self.number:05d}.npy"

    def entries(self, work: Path) -> Path:
        """Return the file of its ids and titles, a JSON object a line."""
        return work / f"documents-{self.number:05d}.jsonl"


def encode_shards(
    documents: Iterable[Entry], encode: Encoder, work: Path, shard_size: int, total: int | None = None
) -> Iterator[Shard]:
    """Yield the corpus shard by shard, as soon as the vectors of a shard are in ``work``.

    Shards that a killed run left in ``work`` are reused if their documents are the same and their files are whole.
    ``total``, the number of documents, lets the bar show the time left. EffirError: vectors that are not finite,
    or of two dimensions.
    """
    manifest = work / "manifest.json"  # of finished shards: their vectors were written before it
    earlier = dict(enumerate(_read_manifest(manifest) if manifest.exists() else ()))
    done: list[Shard] = []
    stream = iter(documents)
    with progress(total, "encode", "documents") as bar:
        while batch := list(islice(stream, shard_size)):
            shard = earlier.get(len(done))
            if shard is None or shard.sha256 != _digest(batch) or shard.written != _written(shard, work):
                if earlier:
                    earlier.clear()
                    _write_manifest(work, done)  # forget the shards that are overwritten from here on
                shard = _encode_shard(len(done), batch, lambda texts: encode(texts, bar.update), work)
                _write_manifest(work, [*done, shard])
            else:
                bar.initial += len(batch)  # they took no time: they must not shorten the time left
                bar.update(len(batch))
            done.append(shard)
            if shard.dimension != done[0].dimension:
                raise EffirError(f"{work} holds vectors of another model: delete it and run again")
            yield shard


def _read_manifest(manifest: Path) -> list[Shard]:
    try:
        return [Shard(**row) for row in read_json(manifest)]
    except (EffirError, TypeError):  # damaged
        return []


def _write_manifest(work: Path, shards: Sequence[Shard]) -> None:
    write_json(work / "manifest.json", [asdict(shard) for shard in shards])


def _encode_shard(number: int, batch: Sequence[Entry], encode: Callable[[list[str]], Vectors], work: Path) -> Shard:
    vectors = np.ascontiguousarray(encode([content for _, _, content in batch]), dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(batch):
        raise ValueError(f"the encoder returned an array of shape {vectors.shape} for {len(batch)} texts")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        worst = batch[int(np.argmin(finite))][0]
        raise EffirError(
            f"the vector of document {worst!r} is not finite: use another model, or train it with a lower learning rate"
        )
    shard = Shard(number, len(batch), vectors.shape[1], _digest(batch))
    with writing(shard.vectors(work)) as draft, draft.open("wb") as stream:
        np.save(stream, vectors, allow_pickle=False)
    write_jsonl(shard.entries(work), ({"id": id_, "title": title} for id_, title, _ in batch))
    return replace(shard, written=_written(shard, work))


def _written(shard: Shard, work: Path) -> str:
    """Hash a shard's files with its fields: a kill while the folder is removed leaves some of them."""
    fields = {key: value for key, value in asdict(shard).items() if key != "written"}
    files = [sha256_of(path) if path.is_file() else "" for path in (shard.vectors(work), shard.entries(work))]
    return text_digest(json.dumps([fields, files]))


def _digest(batch: Sequence[Entry]) -> str:
    digest = hashlib.sha256()
    for entry in batch:
        digest.update(json.dumps(entry).encode())
    return digest.hexdigest()
