"""Make the retriever that is served: the fine-tuned one, with fewer tokens if asked, and what its backend needs."""

import shutil
from pathlib import Path
from typing import Literal

import click

from effir.compress.vocabulary import collection_texts, fit_vocabulary
from effir.data.beir import open_collection
from effir.data.calibration import load_calibration
from effir.files import require, writing
from effir.model.prompt_config import prompts_of, retrieval_prompts
from stages.paths import CALIBRATION, DEV, FINETUNED, RETRIEVER, TRAIN
from stages.program import running

TEXTS = 64
"""Calibration texts from which int8 takes the ranges of activations."""


@click.command()
def main() -> None:
    """Copy the fine-tuned retriever; for the openvino backend, add its graph, if that keeps the quality on data.dev."""
    with running("export") as stage:
        retriever, budget = stage.params.retriever, stage.params.index.batch_tokens
        with writing(RETRIEVER) as draft:
            tokens = copy_retriever(draft, retriever.vocabulary)
            stage.run.log_metrics({"export/tokens": tokens} if tokens else {})
            if retriever.backend == "openvino":
                from effir.export.openvino_graph import export_graph

                texts = load_calibration(require(CALIBRATION), TEXTS)
                dev = open_collection(require(DEV))
                exported = export_graph(draft, retriever.precision, texts, dev, retriever.max_drop, budget)
                quality = {"export/dev_ndcg_at_10": exported.after, "export/dev_ndcg_at_10_float32": exported.before}
                stage.run.log_metrics(quality)


def copy_retriever(into: Path, vocabulary: Literal["all", "train"]) -> int:
    """Copy the fine-tuned retriever; with ``train`` return the number of tokens that the training data left it."""
    finetuned = require(FINETUNED)
    if vocabulary == "all":
        shutil.copytree(finetuned, into)
        return 0
    prompts, sets = retrieval_prompts(*prompts_of(finetuned)), [open_collection(require(each)) for each in (TRAIN, DEV)]
    return fit_vocabulary(finetuned, into, lambda: (t for each in sets for t in collection_texts(each, prompts))).tokens


if __name__ == "__main__":
    main()
