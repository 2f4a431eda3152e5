"""Search a corpus once: encode it in resumable shards, index it, search it with all queries, and keep no index."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from effir.encoding.encoder import TextEncoder
from effir.encoding.shards import Entry
from effir.files import scratch
from effir.index.faiss_index import Hit, build_index, open_index

EXACT = "Flat"


def search_corpus(
    documents: Iterable[Entry],
    queries: Sequence[str],
    encoder: TextEncoder,
    k: int,
    *,
    work: Path,
    factory: str = EXACT,
    shard_size: int = 4096,
) -> list[list[Hit]]:
    """Return the ``k`` best of the ``(id, title, content)`` documents for each query, the best first.

    A killed search continues after its last shard in ``work``, as :func:`build_index` does, whose EffirErrors it
    raises. By default the search is exact.
    """
    with scratch(work.with_name(f"{work.name}.index")) as place:
        build_index(documents, encoder.documents, place / "index", factory=factory, work=work, shard_size=shard_size)
        return open_index(place / "index").search(encoder.queries(queries), k)
