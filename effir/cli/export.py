"""`effir export`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from effir.cli.terminal import PATH, answer, json_option

PRECISIONS = ["float32", "bfloat16", "int8"]
TEXTS = Path("data/calibration.jsonl")


@click.command()
@click.argument("folder", type=PATH, default=Path("models/retriever"))
@click.option("--backend", type=click.Choice(["openvino"]), default="openvino", show_default=True)
@click.option("--precision", type=click.Choice(PRECISIONS), default="int8", show_default=True)
@click.option("--dev", type=PATH, default=Path("data/dev"), show_default=True, help="The dev set, in BEIR layout.")
@click.option("--calibration", type=PATH, default=TEXTS, show_default=True, help="Texts, JSON lines with `text`.")
@click.option("--max-drop", type=click.FloatRange(0, 1), default=0.005, show_default=True, help="Of nDCG@10.")
@json_option()
def export(
    folder: Path, backend: str, precision: Any, dev: Path, calibration: Path, max_drop: float, as_json: bool
) -> None:
    """Write the graph of a backend into the retriever FOLDER, if it keeps the retriever's quality.

    Other libraries open the folder as before. If nDCG@10 on the dev set falls by more than --max-drop, nothing is
    written and the exit status is 1. In the pipeline, use `-S retriever.backend=openvino`: DVC owns models/retriever
    and removes other files from it at the next `dvc repro`.

    Example: effir export models/retriever --precision int8
    """
    from effir.data.beir import open_collection
    from effir.data.calibration import load_calibration
    from effir.export.openvino_graph import QualityLostError, export_graph
    from effir.files import require
    from effir.params import load_params

    texts = load_calibration(require(calibration), 64)
    collection, budget = open_collection(require(dev)), load_params().index.batch_tokens
    try:
        exported = export_graph(folder, precision, texts, collection, max_drop, budget)
    except QualityLostError as lost:
        click.echo(lost, err=True)
        raise click.exceptions.Exit(1) from None
    said = f"{folder} now also runs in {backend}, {precision}: nDCG@10 {exported.before:.4f} -> {exported.after:.4f}"
    answer({"folder": str(folder), "backend": backend, "precision": precision, **asdict(exported)}, said, as_json)
