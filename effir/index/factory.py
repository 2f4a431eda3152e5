"""The kinds of index: which faiss factory strings are accepted, and the index that one describes.

https://github.com/facebookresearch/faiss/wiki/The-index-factory explains the strings.
"""

import re
from typing import Any

import faiss

from effir.errors import EffirError

PROBES = 16  # cells that a search visits at least: recall@10 is 0.973 with 16 of 1,024, as with 64 (docs/speed.md)
EXAMPLES = "use for example Flat, HNSW32 or IVF1024,Flat"
ADDABLE = "use Flat, which is exact, or HNSW32, which is faster"


def check_factory(factory: str) -> None:
    """Refuse a string that faiss cannot read in any dimension, before anything is computed."""
    try:
        faiss.index_factory(960, factory, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, MemoryError) as error:
        if "could not parse" in str(error):
            raise EffirError(f"faiss does not know the index factory {factory!r}: {EXAMPLES}") from None


def check_addable(factory: str) -> None:
    """Refuse a kind of index to which documents cannot be added later: one that is unknown, trained or quantised."""
    try:
        index = faiss.index_factory(960, factory, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, MemoryError):
        index = None
    if not isinstance(index, faiss.IndexFlat | faiss.IndexHNSWFlat) or not index.is_trained:
        raise EffirError(f"documents cannot be added to an index of factory {factory!r}: {ADDABLE}")


def vectors_needed(factory: str) -> int:
    """Return the least number of vectors that an index can be trained on: the most clusters in it.

    >>> vectors_needed("Flat"), vectors_needed("IVF1024,Flat"), vectors_needed("IVF64,PQ32")
    (1, 1024, 256)
    """
    try:
        index = faiss.index_factory(960, factory, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, MemoryError):
        return 1
    ivf = faiss.try_extract_index_ivf(index)
    quantiser = getattr(index if ivf is None else faiss.downcast_index(ivf), "pq", None)
    return max(1 if ivf is None else ivf.nlist, 1 if quantiser is None else 2**quantiser.nbits)


def new_index(dimension: int, factory: str) -> Any:
    """Make an empty index; EffirError if faiss has no such index of this dimension by inner product."""
    refusal = f"the index factory {factory!r} cannot hold vectors of dimension {dimension} by inner product"
    try:
        index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, MemoryError) as error:
        raise EffirError(f"{refusal} ({reason_of(error)}): {EXAMPLES}") from None
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise EffirError(f"{refusal}: {EXAMPLES}")
    if (ivf := faiss.try_extract_index_ivf(index)) is not None:
        ivf.nprobe = probes(ivf.nlist)
    return index


def probes(cells: int) -> int:
    """Return how many cells of an IVF index a search visits: a 64th of them, at least 16, at most all.

    >>> probes(8), probes(1024), probes(65536)
    (8, 16, 1024)
    """
    return min(cells, max(PROBES, cells // 64))


def apply_settings(index: Any, settings: str) -> None:
    """Set search-time parameters such as ``nprobe=16,ht=4`` in place."""
    space: Any = faiss.ParameterSpace()  # its stub knows one of the two overloads
    try:
        space.set_index_parameters(index, settings)
    except RuntimeError as error:
        raise EffirError(
            f"search settings {settings!r} do not fit this index ({reason_of(error)}): use for example nprobe=16"
        ) from None


def reason_of(error: BaseException) -> str:
    """Shorten a faiss error (file, line, assertion) to its reason."""
    few = re.search(r"training points \((\d+)\).*clusters \((\d+)\)", str(error))
    if few:
        return f"it needs at least {few[2]} vectors to train on, and got {few[1]}; use fewer clusters, or Flat"
    return re.sub(r"^Error in .*? at \S+:\d+: (Error: )?", "", str(error)).strip()
