"""One stream on all cores beside one a core: batches one after the other, or as many at a time as there are cores."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.table import ratio, save, times
from effir.data.beir import open_collection
from effir.encoding.backends import Precision, graph_of
from effir.encoding.batches import token_batches
from effir.encoding.encoder import padded
from effir.encoding.openvino import compiled_graph
from effir.encoding.texts import TextReader
from effir.evaluation.cost import alternate
from stages.paths import EVAL

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
DOCUMENTS = 48
BUDGETS = (1024,)
ROUNDS = 3

Feed = dict[str, Any]


def feeds_of(reader: TextReader, budget: int) -> list[Feed]:
    """Lay real documents out in batches of at most so many tokens."""
    contents = [document.content for document in open_collection(EVAL / "apidocs").documents()]
    ids = reader.read(contents[:: len(contents) // DOCUMENTS][:DOCUMENTS], "document")
    lengths = np.array([len(text) for text in ids], dtype=np.int64)
    batches = token_batches(lengths, budget)
    return [{"input_ids": padded(ids, rows, lengths), "lengths": lengths[rows]} for rows in batches]


def one_stream(graph: Any, feeds: Sequence[Feed]) -> Callable[[], None]:
    """Return a function that runs the batches one after the other, each on all cores, as the backend does."""
    request = graph.create_infer_request()

    def run() -> None:
        for feed in feeds:
            request.infer(feed, share_inputs=True)

    return run


def many_streams(graph: Any, feeds: Sequence[Feed], streams: int) -> Callable[[], None]:
    """Return a function that runs as many batches at a time as there are streams, each on one core."""
    from openvino import AsyncInferQueue

    queue = AsyncInferQueue(graph, streams)

    def run() -> None:
        for feed in feeds:
            queue.start_async(feed)
        queue.wait_all()

    return run


def rows_of(name: str, folder: Path) -> list[dict[str, Any]]:
    """Compare both on one retriever."""
    cores, rows = os.cpu_count() or 1, []
    for budget in BUDGETS:
        feeds = feeds_of(TextReader.open(folder), budget)
        tokens = int(sum(feed["lengths"].sum() for feed in feeds))
        for precision in PRECISIONS:
            place = graph_of(folder, precision)
            wide = compiled_graph(place, precision)
            narrow = compiled_graph(place, precision, NUM_STREAMS=cores, PERFORMANCE_HINT="THROUGHPUT")
            took = alternate({"one": one_stream(wide, feeds), "many": many_streams(narrow, feeds, cores)}, ROUNDS)
            common = {"model": name, "precision": precision, "budget": budget, "tokens": tokens, "streams": cores}
            rows.append({**common, "seconds": took, "many_over_one": ratio(took["one"], took["many"])})
    return rows


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "model": lambda row: row["model"],
    "tokens a batch": lambda row: str(row["budget"]),
    "precision": lambda row: row["precision"],
    "one stream, tokens/s": lambda row: f"{row['tokens'] / np.median(row['seconds']['one']):,.0f}",
    "one a core, tokens/s": lambda row: f"{row['tokens'] / np.median(row['seconds']['many']):,.0f}",
    "one a core is faster, times": lambda row: times(row["many_over_one"]),
}


@click.command()
@click.option("--model", "models", multiple=True, required=True, type=(str, click.Path(path_type=Path)))
def main(models: Sequence[tuple[str, Path]]) -> None:
    """Encode documents by exported retrievers, each named: NAME DIR."""
    rows = []
    for name, folder in models:
        rows += rows_of(name, folder)
    click.echo("\n".join("  ".join(f"{column}: {show(row)}" for column, show in COLUMNS.items()) for row in rows))
    note = f"{DOCUMENTS} documents of `apidocs`, {ROUNDS} alternated rounds after one to warm up; OpenVINO."
    settings = {"documents": DOCUMENTS, "budgets": BUDGETS, "rounds": ROUNDS}
    save("streams", "One stream or one a core", rows, columns=COLUMNS, notes=[note], settings=settings)


if __name__ == "__main__":
    main()
