"""Make the retriever that is served: the fine-tuned one, and what its backend needs beside it."""

import shutil

import click

from effir.data.beir import open_collection
from effir.data.calibration import load_calibration
from effir.files import require, writing
from stages.paths import CALIBRATION, DEV, FINETUNED, RETRIEVER
from stages.program import running

TEXTS = 64
"""Calibration texts from which int8 takes the ranges of activations."""


@click.command()
def main() -> None:
    """Copy the fine-tuned retriever; for the openvino backend, add its graph, if that keeps the quality on data.dev."""
    with running("export") as stage:
        retriever, budget = stage.params.retriever, stage.params.index.batch_tokens
        with writing(RETRIEVER) as draft:
            shutil.copytree(require(FINETUNED), draft)
            if retriever.backend == "openvino":
                from effir.export.openvino_graph import export_graph

                texts = load_calibration(require(CALIBRATION), TEXTS)
                dev = open_collection(require(DEV))
                exported = export_graph(draft, retriever.precision, texts, dev, retriever.max_drop, budget)
                quality = {"export/dev_ndcg_at_10": exported.after, "export/dev_ndcg_at_10_float32": exported.before}
                stage.run.log_metrics(quality)


if __name__ == "__main__":
    main()
