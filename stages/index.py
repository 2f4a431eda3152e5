"""Encode and index one set's corpus."""

import click

from effir.data.beir import open_collection
from effir.files import require
from effir.resuming import checkpoints_for
from effir.retriever import encode_documents, open_retriever
from effir.search import build_index
from stages.paths import EVAL, INDEXES, RETRIEVER
from stages.program import running


@click.command()
@click.argument("name")
def main(name: str) -> None:
    """Encode the corpus of the evaluation set NAME with the retriever and index it."""
    with running(f"index@{name}") as stage:
        index = stage.params.index
        collection = open_collection(require(EVAL / name, made_by=f"download_eval@{name}"))
        model = open_retriever(require(RETRIEVER, made_by="finetune"))
        report = build_index(
            ((d.id, d.title, d.content) for d in collection.documents()),
            lambda texts: encode_documents(model, texts, index.batch_size, index.precision),
            INDEXES / name,
            factory=index.factory,
            work=checkpoints_for(f"index-{name}", index.model_dump(include={"shard_size", "precision"}), [RETRIEVER]),
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
