"""One stream on all cores against one stream on each core."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.table import ratio, save, times
from effir.data.beir import open_collection
from effir.encoding.backends import Precision, graph_of
from effir.encoding.openvino import open_graph
from effir.encoding.text_reader import TextReader
from effir.evaluation.speed import alternate
from stages.paths import EVAL

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
DOCUMENTS = 128
BUDGET = 1024
ROUNDS = 5


def rows_of(name: str, folder: Path, documents: Sequence[str]) -> list[dict[str, Any]]:
    """Compare both ways on one retriever."""
    cores, rows, reader = os.cpu_count() or 1, [], TextReader.open(folder)
    tokens = sum(map(len, reader.read(documents, "document")))
    for precision in PRECISIONS:
        ways = {"one": 1, "many": cores}
        place = graph_of(folder, precision)
        encoders = {way: open_graph(place, reader, precision, BUDGET, streams) for way, streams in ways.items()}
        took = alternate({way: partial(each.documents, documents) for way, each in encoders.items()}, ROUNDS)
        common = {"model": name, "precision": precision, "tokens": tokens, "streams": cores}
        rows.append({**common, "seconds": took, "many_over_one": ratio(took["one"], took["many"])})
    return rows


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "model": lambda row: row["model"],
    "precision": lambda row: row["precision"],
    "one stream, tokens/s": lambda row: f"{row['tokens'] / np.median(row['seconds']['one']):,.0f}",
    "one a core, tokens/s": lambda row: f"{row['tokens'] / np.median(row['seconds']['many']):,.0f}",
    "one a core is faster, times": lambda row: times(row["many_over_one"]),
}


@click.command()
@click.option("--model", "models", multiple=True, required=True, type=(str, click.Path(path_type=Path)))
def main(models: Sequence[tuple[str, Path]]) -> None:
    """Encode documents by exported retrievers, each given as NAME DIR."""
    contents = [document.content for document in open_collection(EVAL / "apidocs").documents()]
    documents = contents[:: len(contents) // DOCUMENTS][:DOCUMENTS]
    rows = [row for name, folder in models for row in rows_of(name, folder, documents)]
    click.echo("\n".join("  ".join(f"{column}: {show(row)}" for column, show in COLUMNS.items()) for row in rows))
    note = f"{DOCUMENTS} documents of `apidocs`, {BUDGET:,} tokens a batch, {ROUNDS} alternated rounds, OpenVINO."
    settings = {"documents": DOCUMENTS, "budget": BUDGET, "rounds": ROUNDS}
    command = " ".join(["streams", *(f"--model {name} DIR" for name, _ in models)])
    save("streams", "One stream or one a core", rows, columns=COLUMNS, notes=[note], settings=settings, command=command)


if __name__ == "__main__":
    main()
