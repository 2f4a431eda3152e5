"""`effir export`."""

import json
from pathlib import Path

import click

PRECISIONS = ["float32", "bfloat16", "int8"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("models/retriever"))
@click.option("--backend", type=click.Choice(["openvino"]), default="openvino", show_default=True)
@click.option("--precision", type=click.Choice(PRECISIONS), default="int8", show_default=True)
@click.option(
    "--dev",
    type=click.Path(path_type=Path),
    default=Path("data/dev"),
    show_default=True,
    help="The set to judge by, BEIR layout.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    default=Path("data/calibration.jsonl"),
    show_default=True,
    help="Texts like those to encode, JSON lines with `text`.",
)
@click.option("--max-drop", type=click.FloatRange(0, 1), default=0.005, show_default=True, help="nDCG@10 it may lose.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def export(
    folder: Path, backend: str, precision: str, dev: Path, calibration: Path, max_drop: float, as_json: bool
) -> None:
    """Write the graph of a backend into the retriever FOLDER, if it finds what the retriever found.

    Every other reader opens the folder as before. Where nDCG@10 on the dev set falls by more than --max-drop, nothing
    is written and the status is 1. In the pipeline, `-S retriever.backend=openvino` does the same; a graph written by
    hand into models/retriever, which belongs to DVC, lasts until the next `dvc repro`.

    Example: effir export models/retriever --precision int8
    """
    from dataclasses import asdict

    from effir.data.beir import open_collection
    from effir.data.calibration import load_calibration
    from effir.export.openvino_graph import QualityLostError, export_graph
    from effir.files import require
    from effir.params import load_params

    texts = load_calibration(require(calibration), 64)
    collection, budget = open_collection(require(dev)), load_params().index.batch_tokens
    try:
        exported = export_graph(folder, precision, texts, collection, max_drop, budget)  # type: ignore[arg-type]
    except QualityLostError as lost:
        click.echo(lost, err=True)
        raise click.exceptions.Exit(1) from None
    if as_json:
        click.echo(json.dumps({"folder": str(folder), "backend": backend, "precision": precision, **asdict(exported)}))
    else:
        click.echo(
            f"{folder} also runs in {backend}, {precision}: nDCG@10 {exported.before:.4f} -> {exported.after:.4f}"
        )
