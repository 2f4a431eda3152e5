"""A corpus as vectors on disk, in numbered shards: the unit of resuming an encoding that was killed."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from effir.errors import EffirError
from effir.files import read_json, write_json, write_jsonl, writing

Vectors = NDArray[np.float32]
Encoder = Callable[[list[str]], Vectors]
Entry = tuple[str, str, str]
"""A document's id, title and content."""


@dataclass(frozen=True)
class Shard:
    """One finished piece of the corpus in the work folder; ``sha256`` is of its ids, titles and contents."""

    number: int
    documents: int
    dimension: int
    sha256: str

    def vectors(self, work: Path) -> Path:
        """Return the file of its (documents, dimension) float32."""
        return work / f"vectors-{self.number:05d}.npy"

    def entries(self, work: Path) -> Path:
        """Return the file of its ids and titles, a JSON object a line."""
        return work / f"documents-{self.number:05d}.jsonl"


def encode_shards(documents: Iterable[Entry], encode: Encoder, work: Path, shard_size: int) -> Iterator[Shard]:
    """Yield the corpus shard by shard, as soon as its vectors lie in ``work``.

    ``encode`` gets the contents of one shard and returns (texts, dimension) float32. Shards that an earlier, killed
    run left in ``work`` are reused while their documents are the same. EffirError: vectors that are not finite, or of
    another dimension than the earlier ones.
    """
    earlier = dict(enumerate(_finished(work)))
    done: list[Shard] = []
    stream = iter(documents)
    with tqdm(desc="encode", unit=" documents", disable=None) as progress:
        while batch := list(islice(stream, shard_size)):
            shard = earlier.get(len(done))
            if shard is None or shard.sha256 != _digest(batch):
                if earlier:
                    earlier.clear()
                    _write_manifest(work, done)  # disown what is about to be overwritten
                shard = _encode_shard(len(done), batch, encode, work)
                _write_manifest(work, [*done, shard])
            done.append(shard)
            if shard.dimension != done[0].dimension:
                raise EffirError(f"{work} holds vectors of another model: delete it and run again")
            progress.update(len(batch))
            yield shard


def _finished(work: Path) -> list[Shard]:
    """Return the shards that an earlier, killed build finished; their vectors were written before the manifest."""
    manifest = work / "manifest.json"
    return [Shard(**row) for row in read_json(manifest)] if manifest.exists() else []


def _write_manifest(work: Path, shards: Sequence[Shard]) -> None:
    write_json(work / "manifest.json", [asdict(shard) for shard in shards])


def _encode_shard(number: int, batch: Sequence[Entry], encode: Encoder, work: Path) -> Shard:
    vectors = np.ascontiguousarray(encode([content for _, _, content in batch]), dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(batch):
        raise ValueError(f"encode gave an array of shape {vectors.shape} for {len(batch)} texts")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        worst = batch[int(np.argmin(finite))][0]
        raise EffirError(
            f"the vector of document {worst!r} is not finite: use another model, or train it with a lower "
            "finetune.learning_rate"
        )
    shard = Shard(number, len(batch), vectors.shape[1], _digest(batch))
    with writing(shard.vectors(work)) as draft, draft.open("wb") as stream:
        np.save(stream, vectors, allow_pickle=False)
    write_jsonl(shard.entries(work), ({"id": id_, "title": title} for id_, title, _ in batch))
    return shard


def _digest(batch: Sequence[Entry]) -> str:
    digest = hashlib.sha256()
    for entry in batch:
        digest.update(json.dumps(entry).encode())
    return digest.hexdigest()
