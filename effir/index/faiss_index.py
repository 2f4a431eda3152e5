"""The FAISS index of a corpus: built in resumable shards, saved with its document ids, opened and searched.

The only module that imports faiss. Vectors are float32 and L2-normalised by the caller, so that the inner product is
the cosine. Where faiss-gpu is installed and a GPU is there, training and searching use all GPUs; that path is small,
and nobody has run it yet: the project's own machines have no GPU.
"""

import json
import mmap
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from effir.encoding.shards import Encoder, Entry, Shard, Vectors, encode_shards
from effir.errors import EffirError
from effir.files import read_json, require, write_json, writing

TRAINING_BYTES = 2**30
"""Most memory that the vectors to train an index on may take; faiss itself uses 256 a cluster."""
PROBES = 16
"""Cells that a search visits at least: of 1,024 they find 0.973 of the nearest, as 64 do (docs/speed.md)."""
_EXAMPLES = "use for example Flat, HNSW32 or IVF1024,Flat"


@dataclass(frozen=True)
class IndexReport:
    """What was built: rows, their dimension, bytes of the index folder, and the seconds that this run spent."""

    documents: int
    dimension: int
    bytes: int
    encoding_seconds: float
    building_seconds: float


@dataclass(frozen=True)
class Hit:
    """One document found, by its row in the index; ``score`` is the inner product with the query, or its estimate."""

    id: str
    title: str
    score: float
    row: int


def build_index(
    documents: Iterable[Entry], encode: Encoder, into: Path, *, factory: str, work: Path, shard_size: int = 4096
) -> IndexReport:
    """Encode ``(id, title, content)`` documents, index them as ``factory`` says, and write the folder ``into``.

    ``encode`` gets the contents of one shard, at most ``shard_size``, and returns (texts, dimension) float32. Every
    finished shard stays in ``work`` until the index is written: a killed build goes on after the last of them whose
    documents are still the same. ``work`` belongs to one model (name it by the model's hash) and is removed at the end.
    An IVF index keeps with it how many cells a search visits (:func:`probes`).
    EffirError: unknown factory, too few vectors to train it, no documents, vectors that are not finite.
    """
    check_factory(factory)
    started = time.perf_counter()
    shards: list[Shard] = []
    for shard in encode_shards(documents, encode, work, shard_size):
        if not shards:
            _new_index(shard.dimension, factory)  # what this dimension cannot hold is refused before hours of encoding
        shards.append(shard)
    if not shards:
        raise EffirError("the corpus has no documents, so there is nothing to index: check its corpus.jsonl")
    encoded = time.perf_counter()
    index = _new_index(shards[0].dimension, factory)
    _fill(index, factory, shards, work)
    _save(index, factory, shards, work, into)
    shutil.rmtree(work)
    size = sum(member.stat().st_size for member in into.iterdir())
    return IndexReport(index.ntotal, index.d, size, encoded - started, time.perf_counter() - encoded)


def check_factory(factory: str) -> None:
    """Refuse, before anything costs time, a string that faiss cannot read whatever the dimension."""
    try:
        faiss.index_factory(960, factory, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, MemoryError) as error:
        if "could not parse" in str(error):
            raise EffirError(f"index.factory is unknown to faiss: {factory!r}; {_EXAMPLES}") from None


def _new_index(dimension: int, factory: str) -> Any:
    refusal = f"index.factory {factory!r} cannot hold vectors of dimension {dimension} by inner product"
    try:
        index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, MemoryError) as error:
        raise EffirError(f"{refusal} ({_reason(error)}); {_EXAMPLES}") from None
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise EffirError(f"{refusal}; {_EXAMPLES}")
    if (ivf := faiss.try_extract_index_ivf(index)) is not None:
        ivf.nprobe = probes(ivf.nlist)
    return index


def probes(cells: int) -> int:
    """Say how many of an IVF index's cells a search visits: 16, or of very many a 64th; few are all visited.

    >>> probes(8), probes(1024), probes(65536)
    (8, 16, 1024)
    """
    return min(cells, max(PROBES, cells // 64))


def _fill(index: Any, factory: str, shards: Sequence[Shard], work: Path) -> None:
    try:
        if not index.is_trained:
            _train(index, _sample(shards, work))
        for shard in tqdm(shards, desc="index", unit=" shards", disable=None):
            index.add(np.load(shard.vectors(work), allow_pickle=False))
    except RuntimeError as error:
        raise EffirError(f"index.factory {factory!r} cannot be built ({_reason(error)}); {_EXAMPLES}") from None


def _train(index: Any, vectors: Vectors) -> None:
    """Train in place; on the GPUs only the clustering runs, so that the index itself never has to fit there."""
    if _gpus() and (ivf := faiss.try_extract_index_ivf(index)) is not None:
        assigner = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(ivf.d))  # faiss does not own it: keep it till trained
        ivf.clustering_index = assigner
    index.train(vectors)


def _sample(shards: Sequence[Shard], work: Path) -> Vectors:
    """Stack evenly spaced shards, as many as ``TRAINING_BYTES`` holds and at least one, to (vectors, dimension)."""
    heaviest = max(shard.documents for shard in shards) * shards[0].dimension * 4
    count = min(len(shards), max(1, TRAINING_BYTES // heaviest))
    chosen = [shards[i * len(shards) // count] for i in range(count)]
    return np.concatenate([np.load(shard.vectors(work), mmap_mode="r", allow_pickle=False) for shard in chosen])


def _save(index: Any, factory: str, shards: Sequence[Shard], work: Path, into: Path) -> None:
    with writing(into) as draft:
        draft.mkdir()
        faiss.write_index(index, str(draft / "index.faiss"))
        with (draft / "documents.jsonl").open("wb") as whole:
            for shard in shards:
                with shard.entries(work).open("rb") as part:
                    shutil.copyfileobj(part, whole)
        manifest = {"factory": factory, "dimension": index.d, "count": index.ntotal, "metric": "inner_product"}
        write_json(draft / "manifest.json", manifest)


def _reason(error: BaseException) -> str:
    """Boil a faiss error (file, line, assertion) down to its reason."""
    few = re.search(r"training points \((\d+)\).*clusters \((\d+)\)", str(error))
    if few:
        return f"it needs at least {few[2]} vectors to train on, and got {few[1]}; use fewer clusters, or Flat"
    return re.sub(r"^Error in .*? at \S+:\d+: (Error: )?", "", str(error)).strip()


def _gpus() -> bool:
    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


class SearchIndex:
    """An opened index; ids and titles stay on disk and are read for the hits alone."""

    def __init__(self, folder: Path, index: Any) -> None:
        self.folder = folder
        self.count: int = index.ntotal
        self.dimension: int = index.d
        self._index = index
        with (folder / "documents.jsonl").open("rb") as stream:
            self._ends = np.cumsum(np.fromiter(map(len, stream), dtype=np.int64))
            self._lines = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self.entries = len(self._ends)

    def search(self, vectors: Vectors, k: int, without: Sequence[int] = ()) -> list[list[Hit]]:
        """Return each row's ``k`` nearest, best first, for (queries, dimension) float32; fewer where fewer are found.

        Equal scores stand in the corpus's order. Documents in the rows ``without`` are passed over. EffirError: another
        dimension than the index has, k below 1.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise EffirError(
                f"{self.folder} holds vectors of dimension {self.dimension}, the queries have shape {vectors.shape}: "
                "the model is another than the index's, run `dvc repro index`"
            )
        if k < 1:
            raise EffirError(f"k must be at least 1, got {k}: it is the number of documents to find")
        queries = np.ascontiguousarray(vectors, dtype=np.float32)
        passing = _passing_over(self._index, without)
        scores, rows = self._index.search(queries, min(k, self.count), params=passing)
        return [self._hits(*found) for found in zip(scores, rows, strict=True)]

    def _hits(self, scores: NDArray[np.float32], rows: NDArray[np.int64]) -> list[Hit]:
        order = [i for i in np.lexsort((rows, -scores)) if rows[i] >= 0]  # faiss fills up with row -1
        return [Hit(**self._entry(int(rows[i])), score=float(scores[i]), row=int(rows[i])) for i in order]

    def vectors(self, rows: Sequence[int]) -> Vectors:
        """Return the vectors of some rows, (rows, dimension) float32; of a quantised index what is left of them."""
        return np.asarray(self._index.reconstruct_batch(np.asarray(rows, dtype=np.int64)), dtype=np.float32)

    def _entry(self, row: int) -> dict[str, str]:
        start = int(self._ends[row - 1]) if row else 0
        entry: dict[str, str] = json.loads(self._lines[start : int(self._ends[row])])
        return entry


def open_index(folder: Path, settings: str = "") -> SearchIndex:
    """Open what :func:`build_index` wrote, with faiss's search-time ``settings``, such as ``nprobe=16,ht=4``.

    An IVF index visits as many cells as :func:`build_index` chose, unless they name ``nprobe``. EffirError: a missing
    or damaged index, naming the command that makes it; settings that this index does not have.
    """
    manifest = read_json(require(folder) / "manifest.json")
    require(folder / "documents.jsonl")
    try:
        index = faiss.read_index(str(require(folder / "index.faiss")))
        _set(index, settings)
        opened = SearchIndex(folder, faiss.index_cpu_to_all_gpus(index) if _gpus() else index)
    except (RuntimeError, ValueError):
        raise EffirError(f"{folder} holds a damaged index: run `dvc repro index`") from None
    if not manifest["count"] == opened.count == opened.entries or manifest["dimension"] != opened.dimension:
        raise EffirError(f"{folder} does not hold what its manifest says: run `dvc repro index`")
    return opened


def _passing_over(index: Any, rows: Sequence[int]) -> Any:
    """Make the search parameters by which some rows are never found; None where there are none."""
    if not len(rows):
        return None
    known: Any = faiss  # its stub lacks selectors
    others = known.IDSelectorNot(known.IDSelectorBatch(np.asarray(rows, dtype=np.int64)))
    if isinstance(index, faiss.IndexHNSW):
        return known.SearchParametersHNSW(sel=others, efSearch=index.hnsw.efSearch)
    return known.SearchParameters(sel=others)


def check_growable(factory: str) -> None:
    """Refuse a kind of index that must be trained, or rounds: it cannot take a few documents more, nor be merged."""
    check_factory(factory)
    index = _new_index(960, factory)
    if not index.is_trained or not isinstance(index, faiss.IndexFlat | faiss.IndexHNSWFlat):
        raise EffirError(f"{factory!r} cannot grow: use Flat, which is exact, or HNSW32")


def _set(index: Any, settings: str) -> None:
    space: Any = faiss.ParameterSpace()  # its stub knows one of the two overloads
    try:
        space.set_index_parameters(index, settings)
    except RuntimeError as error:
        raise EffirError(
            f"search settings {settings!r} do not fit this index ({_reason(error)}): use for example nprobe=16"
        ) from None
