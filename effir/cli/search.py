"""`effir search`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effir.cli.terminal import PATH, answer, json_option
from effir.errors import EffirError
from effir.files import require

if TYPE_CHECKING:
    from effir.encoding.encoder import TextEncoder

Hit = dict[str, Any]
"""A document that was found: ``id``, ``title``, ``score`` and ``text``."""
SearchIndex = Callable[[Any, int], list[Hit]]
"""The vector of a query (1, dimension) and a count to the best hits."""


@click.command()
@click.argument("query")
@click.option("-k", "count", default=5, show_default=True, type=click.IntRange(min=1), help="Number of documents.")
@click.option("--set", "name", help="Which set of data.eval to search. The default is the first.")
@click.option("--index", "own", type=PATH, help="An index made by `effir index build`.")
@json_option("list")
def search(query: str, count: int, name: str | None, own: Path | None, as_json: bool) -> None:
    """Search for QUERY in the index of the last pipeline run, or in an index of your own.

    Each hit has its rank, score, id and title, and the passage of its text that matches QUERY best.

    Example: effir search "smooth a noisy signal" -k 5
    """
    encoder, search_index = _open_own(own) if own else _open_set(name)
    if encoder.reader.unread([query], "query"):
        raise EffirError(f"the model reads nothing of the query {query!r}: ask with words")
    vectors = encoder.queries([query])
    hits = search_index(vectors, count)

    from effir.serve.snippets import best_passages

    passages = best_passages(encoder, vectors[0], [hit["text"] for hit in hits])
    rows = [{**hit, "snippet": passage} for hit, passage in zip(hits, passages, strict=True)]
    answer(rows, "\n".join(_shown(rank, row) for rank, row in enumerate(rows, start=1)), as_json)


def _open_set(name: str | None) -> "tuple[TextEncoder, SearchIndex]":
    """Open the pipeline's retriever and the index of a set, whose texts lie in its collection."""
    from effir.params import load_params

    params = load_params()
    chosen = name or params.data.eval[0]
    folder, retriever = require(Path("indexes") / chosen), require(Path("models/retriever"))

    from effir.encoding.backends import open_encoder
    from effir.index.faiss_index import open_index

    index = open_index(folder)

    def search_index(vectors: Any, count: int) -> list[Hit]:
        hits = index.search(vectors, count)[0]
        texts = _texts(Path("data/eval") / chosen, [hit.id for hit in hits])
        return [{"id": hit.id, "title": hit.title, "score": hit.score, "text": texts.get(hit.id, "")} for hit in hits]

    settings = params.retriever.backend, params.retriever.precision, params.index.batch_tokens
    return open_encoder(retriever, *settings), search_index


def _open_own(folder: Path) -> "tuple[TextEncoder, SearchIndex]":
    """Open an index of `effir index build`, which keeps texts, and the model that it was made with."""
    from effir.serve.documents import DocumentStore
    from effir.serve.open_model import open_model

    store = DocumentStore(folder)
    return open_model(store.manifest.model), lambda vectors, count: [
        asdict(hit) for hit in store.search(vectors, count)[0]
    ]


def _texts(collection: Path, ids: Sequence[str]) -> Mapping[str, str]:
    """Read the texts of some documents: an index keeps ids and titles only. Empty where the collection is away."""
    from effir.data.beir import CORPUS, Collection

    if not (collection / CORPUS).is_file():
        return {}
    wanted = set(ids)
    return {document.id: document.text for document in Collection(collection).documents() if document.id in wanted}


def _shown(rank: int, hit: Hit) -> str:
    head = f"{rank:>2}. {hit['score']:.3f}  " + "  ".join(dict.fromkeys(filter(None, (hit["id"], hit["title"]))))
    return f"{head}\n    {hit['snippet']}" if hit["snippet"] else head
