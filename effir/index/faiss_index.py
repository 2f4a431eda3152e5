"""The FAISS index of a corpus: built in resumable shards, saved with its document ids, opened and searched.

Only this package imports faiss. The caller normalises the float32 vectors, so the inner product is the cosine. With
faiss-gpu and a GPU, training and searching use all GPUs; no test covers that.
"""

import json
import mmap
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from effir.encoding.encoder import Vectors
from effir.encoding.shards import Encoder, Entry, Shard, encode_shards
from effir.errors import EffirError
from effir.files import read_json, require, write_json, writing
from effir.index.factory import EXAMPLES, apply_settings, check_factory, new_index, reason_of
from effir.progress import progress

TRAINING_BYTES = 2**30
"""Memory limit for the vectors that an index is trained on; faiss itself uses 256 for each cluster."""


@dataclass(frozen=True)
class IndexReport:
    """What was built: documents, their dimension, bytes of the index folder, and the seconds of this run."""

    documents: int
    dimension: int
    bytes: int
    encoding_seconds: float
    building_seconds: float


@dataclass(frozen=True)
class Hit:
    """One result, with its row in the index; ``score`` is the inner product with the query, or its estimate."""

    id: str
    title: str
    score: float
    row: int


def build_index(
    documents: Iterable[Entry],
    encode: Encoder,
    into: Path,
    *,
    factory: str,
    work: Path,
    shard_size: int = 4096,
    total: int | None = None,
) -> IndexReport:
    """Encode ``(id, title, content)`` documents, index them as ``factory`` says, and write the folder ``into``.

    ``encode`` gets the contents of one shard. Finished shards stay in ``work`` until the index is written: a killed
    build continues after the last shard whose documents are unchanged. ``work`` belongs to one model (name it by the
    model's hash) and is removed at the end. ``total``, the number of documents, lets the bar show the time left.
    EffirError: unknown factory, too few vectors to train it, no documents, vectors that are not finite.
    """
    check_factory(factory)
    started = time.perf_counter()
    shards: list[Shard] = []
    for shard in encode_shards(documents, encode, work, shard_size, total):
        if not shards:
            new_index(shard.dimension, factory)  # refuses an unsuitable dimension before hours of encoding
        shards.append(shard)
    if not shards:
        raise EffirError("the corpus has no documents, so there is nothing to index: check its corpus.jsonl")
    encoded = time.perf_counter()
    index = new_index(shards[0].dimension, factory)
    _fill(index, factory, shards, work)
    _save(index, factory, shards, work, into)
    shutil.rmtree(work)
    size = sum(member.stat().st_size for member in into.iterdir())
    return IndexReport(index.ntotal, index.d, size, encoded - started, time.perf_counter() - encoded)


def _fill(index: Any, factory: str, shards: Sequence[Shard], work: Path) -> None:
    try:
        if not index.is_trained:
            _train(index, _sample(shards, work))
        for shard in progress(shards, "index", "shards"):
            index.add(np.load(shard.vectors(work), allow_pickle=False))
    except RuntimeError as error:
        raise EffirError(f"the index factory {factory!r} cannot be built ({reason_of(error)}): {EXAMPLES}") from None


def _train(index: Any, vectors: Vectors) -> None:
    """Train in place. Only the clustering runs on GPUs, so the index itself does not have to fit there."""
    if _gpus() and (ivf := faiss.try_extract_index_ivf(index)) is not None:
        assigner = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(ivf.d))  # faiss does not own it: keep a reference
        ivf.clustering_index = assigner
    index.train(vectors)


def _sample(shards: Sequence[Shard], work: Path) -> Vectors:
    """Stack evenly spaced shards, as many as fit into ``TRAINING_BYTES`` and at least one: (vectors, dimension)."""
    heaviest = max(shard.documents for shard in shards) * shards[0].dimension * 4
    count = min(len(shards), max(1, TRAINING_BYTES // heaviest))
    chosen = [shards[i * len(shards) // count] for i in range(count)]
    return np.concatenate([np.load(shard.vectors(work), mmap_mode="r", allow_pickle=False) for shard in chosen])


def _save(index: Any, factory: str, shards: Sequence[Shard], work: Path, into: Path) -> None:
    with writing(into) as draft:
        draft.mkdir()
        faiss.write_index(index, str(draft / "index.faiss"))
        with (draft / "documents.jsonl").open("wb") as entries:
            for shard in shards:
                with shard.entries(work).open("rb") as part:
                    shutil.copyfileobj(part, entries)
        manifest = {"factory": factory, "dimension": index.d, "count": index.ntotal, "metric": "inner_product"}
        write_json(draft / "manifest.json", manifest)


def _gpus() -> bool:
    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


class JsonLines:
    """The objects of a JSON-lines file by row. They stay on disk, and can be read after the file was removed."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as stream:
            self._ends = np.cumsum(np.fromiter(map(len, stream), dtype=np.int64))
            self._lines = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if len(self._ends) else b""

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> Any:
        return json.loads(self._lines[int(self._ends[row - 1]) if row else 0 : int(self._ends[row])])


class SearchIndex:
    """An opened index."""

    def __init__(self, folder: Path, index: Any) -> None:
        self.folder, self._index = folder, index
        self.count: int = index.ntotal
        self.dimension: int = index.d
        self.entries = JsonLines(folder / "documents.jsonl")

    def search(self, vectors: Vectors, k: int, without: Sequence[int] = ()) -> list[list[Hit]]:
        """Return the ``k`` nearest documents of each row, best first, for (queries, dimension) float32.

        Equal scores keep the order of the corpus. The rows ``without`` are excluded. An index of cells may find fewer
        than ``k``. EffirError: queries of another dimension, k below 1.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise EffirError(
                f"{self.folder} holds vectors of dimension {self.dimension}, but the queries have shape "
                f"{vectors.shape}: build the index again with this model"
            )
        if k < 1:
            raise EffirError(f"k must be at least 1, got {k}: it is the number of documents to return")
        queries = np.ascontiguousarray(vectors, dtype=np.float32)
        scores, rows = self._index.search(queries, min(k, self.count), params=_excluding(self._index, without))
        return [self._hits(*found) for found in zip(scores, rows, strict=True)]

    def _hits(self, scores: NDArray[np.float32], rows: NDArray[np.int64]) -> list[Hit]:
        order = [i for i in np.lexsort((rows, -scores)) if rows[i] >= 0]  # faiss fills up with row -1
        return [Hit(**self.entries[int(rows[i])], score=float(scores[i]), row=int(rows[i])) for i in order]

    def vectors(self, rows: Sequence[int]) -> Vectors:
        """Return the vectors of some rows, (rows, dimension) float32; a quantised index returns approximations."""
        return np.asarray(self._index.reconstruct_batch(np.asarray(rows, dtype=np.int64)), dtype=np.float32)


def open_index(folder: Path, settings: str = "") -> SearchIndex:
    """Open an index that :func:`build_index` wrote, with faiss's search-time ``settings``, such as ``nprobe=16,ht=4``.

    A search of an IVF index visits :func:`effir.index.factory.probes` cells, unless the settings name ``nprobe``.
    MissingError: no index. EffirError: a damaged index, settings that this kind of index does not have.
    """
    found = read_json(require(folder) / "manifest.json")
    manifest: dict[str, Any] = found if isinstance(found, dict) else {}
    require(folder / "documents.jsonl")
    damaged = EffirError(f"the index in {folder} is damaged: build it again")
    try:
        index = faiss.read_index(str(require(folder / "index.faiss")))
        apply_settings(index, settings)
        opened = SearchIndex(folder, faiss.index_cpu_to_all_gpus(index) if _gpus() else index)
    except (RuntimeError, ValueError):
        raise damaged from None
    said = manifest.get("count"), manifest.get("dimension")
    if said != (opened.count, opened.dimension) or opened.count != len(opened.entries):
        raise damaged
    return opened


def _excluding(index: Any, rows: Sequence[int]) -> Any:
    """Return search parameters that exclude some rows; None if there are no rows."""
    if not len(rows):
        return None
    known: Any = faiss  # its stub lacks selectors
    others = known.IDSelectorNot(known.IDSelectorBatch(np.asarray(rows, dtype=np.int64)))
    if isinstance(index, faiss.IndexHNSW):
        return known.SearchParametersHNSW(sel=others, efSearch=index.hnsw.efSearch)
    return known.SearchParameters(sel=others)
