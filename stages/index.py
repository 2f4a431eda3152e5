"""Encode and index one set's corpus."""

import click

from effir.data.beir import open_collection
from effir.encoding.backends import open_encoder
from effir.files import checkpoints_for, require
from effir.index.faiss_index import build_index
from stages.paths import EVAL, INDEXES, RETRIEVER
from stages.program import running


@click.command()
@click.argument("name")
def main(name: str) -> None:
    """Encode the corpus of the evaluation set NAME with the retriever and index it."""
    with running(f"index@{name}") as stage:
        index, retriever = stage.params.index, stage.params.retriever
        collection = open_collection(require(EVAL / name))
        folder = require(RETRIEVER)
        encoder = open_encoder(folder, retriever.backend, retriever.precision, index.batch_tokens)
        identity = {"shard_size": index.shard_size, "backend": retriever.backend, "precision": retriever.precision}
        report = build_index(
            ((d.id, d.title, d.content) for d in collection.documents()),
            encoder.documents,
            INDEXES / name,
            factory=index.factory,
            work=checkpoints_for(f"index-{name}", identity, [RETRIEVER]),
            shard_size=index.shard_size,
        )
        stage.run.log_metrics(
            {
                f"{name}/index_documents": report.documents,
                f"{name}/index_bytes": report.bytes,
                f"{name}/encoding_seconds": report.encoding_seconds,
            }
        )


if __name__ == "__main__":
    main()
