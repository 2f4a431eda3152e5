"""Encode and index one set's corpus."""

from pathlib import Path

import click

from effir.data.beir import open_collection
from effir.encoding.backends import open_encoder
from effir.files import require
from effir.index.faiss_index import build_index
from effir.resume import resumable
from stages.paths import EVAL, INDEXES, RETRIEVER
from stages.program import running


@click.command()
@click.argument("name")
def main(name: str) -> None:
    """Encode the corpus of the evaluation set NAME with the retriever and index it."""
    with running(f"index@{name}") as stage:
        index, retriever = stage.params.index, stage.params.retriever
        collection = open_collection(require(EVAL / name))
        encoder = open_encoder(require(RETRIEVER), retriever.backend, retriever.precision, index.batch_tokens)
        identity = {"shard_size": index.shard_size, "backend": retriever.backend, "precision": retriever.precision}
        identity["computes"] = encoder.computes.arithmetic
        with resumable(f"index-{name}", identity, [RETRIEVER, Path(__file__)]) as work:
            report = build_index(
                ((d.id, d.title, d.content) for d in collection.documents()),
                encoder.documents,
                INDEXES / name,
                factory=index.factory,
                work=work,
                shard_size=index.shard_size,
                total=sum(1 for _ in collection.documents()),
            )
        sizes = {"index_documents": report.documents, "index_bytes": report.bytes}
        metrics = {**sizes, "encoding_seconds": report.encoding_seconds}
        stage.run.log_metrics({f"{name}/{key}": value for key, value in metrics.items()})


if __name__ == "__main__":
    main()
