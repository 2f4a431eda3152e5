"""`effir search`."""

import json
from pathlib import Path

import click


@click.command()
@click.argument("query")
@click.option("-k", "count", default=5, show_default=True, type=click.IntRange(min=1), help="How many documents.")
@click.option("--set", "name", help="Which of data.eval to search; the first by default.")
@click.option("--index", "own", type=click.Path(path_type=Path), help="An index that `effir index build` made.")
@click.option("--json", "as_json", is_flag=True, help="One JSON list, for programs.")
def search(query: str, count: int, name: str | None, own: Path | None, as_json: bool) -> None:
    """Search the pipeline's last index for QUERY, or one of your own.

    Example: effir search "smooth a noisy signal" -k 5
    """
    if own is not None:
        return _search_own(own, query, count, as_json)
    from effir.files import require
    from effir.params import load_params

    params = load_params()
    chosen = name or params.data.eval[0]
    index = require(Path("indexes") / chosen)
    folder = require(Path("models/retriever"))

    from effir.encoding.backends import open_encoder
    from effir.index.faiss_index import open_index

    encoder = open_encoder(folder, params.retriever.backend, params.retriever.precision, params.index.batch_tokens)
    hits = open_index(index).search(encoder.queries([query]), count)[0]
    if as_json:
        click.echo(json.dumps([{"id": hit.id, "title": hit.title, "score": hit.score} for hit in hits]))
    else:
        for hit in hits:
            click.echo(f"{hit.score:.3f}  {hit.title or hit.id}")


def _search_own(folder: Path, query: str, count: int, as_json: bool) -> None:
    from dataclasses import asdict

    from effir.serve.documents import DocumentStore
    from effir.serve.open_model import open_model

    index = DocumentStore(folder)
    hits = index.search(open_model(index.manifest.model).queries([query]), count)[0]
    if as_json:
        click.echo(json.dumps([asdict(hit) for hit in hits]))
    else:
        for hit in hits:
            click.echo(f"{hit.score:.3f}  {hit.id}  {hit.title or hit.text[:80]}")
