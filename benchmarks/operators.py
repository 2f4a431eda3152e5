"""Where the time of a single query goes: the operators of the OpenVINO graph beside the time of the query."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np
import torch

from benchmarks.table import save
from effir.data.beir import open_collection
from effir.encoding.backends import Precision, graph_of
from effir.encoding.encoder import padded
from effir.encoding.openvino import compiled_graph, padded_single
from effir.encoding.text_reader import TextReader
from stages.paths import EVAL

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
QUERIES = 40
ROUNDS = 5
QUERY = "**a query**"

Feed = dict[str, Any]


def single_queries(reader: TextReader) -> list[Feed]:
    """Arrange real queries of `apidocs`, one in each batch."""
    collection = open_collection(EVAL / "apidocs")
    queries = list(collection.queries(collection.evaluation_split()).values())[:QUERIES]
    found = []
    for ids in reader.read(queries, "query"):
        lengths = np.array([len(ids)], dtype=np.int64)
        found.append({"input_ids": padded([ids], np.array([0]), lengths), "lengths": lengths})
    return found


def waits(graphs: Mapping[int, Any], feeds: Sequence[Feed]) -> list[float]:
    """Return the seconds of each query, after a warm-up round."""
    requests, seconds = _requests(graphs), []
    for turn in range(ROUNDS + 1):
        for feed in feeds:
            started = perf_counter()
            requests(feed).infer(feed, share_inputs=True)
            if turn:
                seconds.append(perf_counter() - started)
    return seconds


def _requests(graphs: Mapping[int, Any]) -> Callable[[Feed], Any]:
    """Return a function that picks the request for a query: that of its length, or 0 for any shape."""
    requests = {length: graph.create_infer_request() for length, graph in graphs.items()}
    return lambda feed: requests.get(feed["input_ids"].shape[1]) or requests[0]


def by_kind(graphs: Mapping[int, Any], feeds: Sequence[Feed]) -> dict[str, tuple[float, float]]:
    """Return seconds and number of operators for each query, by kind of operator and kernel."""
    requests = _requests(graphs)
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for feed in feeds:
        requests(feed).infer(feed)
    for feed in feeds:
        request = requests(feed)
        request.infer(feed)
        for node in request.profiling_info:
            if node.real_time.total_seconds() > 0:
                kind = found[f"{node.node_type}, {node.exec_type}"]
                kind[0] += node.real_time.total_seconds() / len(feeds)
                kind[1] += 1 / len(feeds)
    return {kind: (seconds, count) for kind, (seconds, count) in found.items()}


def rows_of(name: str, folder: Path, least: float = 0.04) -> Iterator[dict[str, Any]]:
    """Yield a row for each kind of operator that takes at least ``least`` of a query's time, and one for the rest."""
    feeds = single_queries(TextReader.open(folder))
    fixed = [{**f, "input_ids": found} for f in feeds if (found := padded_single(f["input_ids"])) is not None]
    lengths = sorted({feed["input_ids"].shape[1] for feed in fixed})
    for precision in PRECISIONS:
        for way, each, shapes in (("any shape", feeds, [0]), ("a graph a length", fixed, lengths)):
            compiled = partial(_compiled, graph_of(folder, precision), precision, shapes)
            p50, single = (statistics.median(waits(compiled(INFERENCE_NUM_THREADS=n), each)) for n in (2, 1))
            common = {"model": name, "precision": precision, "way": way, "seconds": p50, "one_thread_seconds": single}
            kinds = by_kind(compiled(PERF_COUNT=True), each)
            yield from ({**common, **row} for row in _shares(kinds, p50, least))


def _compiled(folder: Path, precision: str, lengths: Sequence[int], **settings: object) -> dict[int, Any]:
    return {length: compiled_graph(folder, precision, length or None, **settings) for length in lengths}


def _shares(kinds: Mapping[str, tuple[float, float]], total: float, least: float) -> Iterator[dict[str, Any]]:
    large = {kind: each for kind, each in kinds.items() if each[0] >= least * total}
    rest = [each for kind, each in kinds.items() if kind not in large]
    known = sum(seconds for seconds, _ in kinds.values())
    yield {"kind": QUERY, "operators": sum(each[1] for each in kinds.values()), "took": total}
    for kind, (seconds, count) in sorted(large.items(), key=lambda item: -item[1][0]):
        yield {"kind": kind, "operators": count, "took": seconds}
    yield {"kind": "others", "operators": sum(each[1] for each in rest), "took": sum(each[0] for each in rest)}
    yield {"kind": "between operators", "operators": 0, "took": total - known}


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "model": lambda row: row["model"],
    "precision": lambda row: row["precision"],
    "compiled for": lambda row: row["way"],
    "operator and kernel": lambda row: row["kind"],
    "how many": lambda row: f"{row['operators']:.0f}" if row["operators"] else "",
    "ms": lambda row: f"{row['took'] * 1e3:.2f}",
    "share": lambda row: f"{row['took'] / row['seconds']:.0%}",
    "one thread, ms": lambda row: f"{row['one_thread_seconds'] * 1e3:.2f}" if row["kind"] == QUERY else "",
}


@click.command()
@click.option("--model", "models", multiple=True, required=True, type=(str, click.Path(path_type=Path)))
def main(models: Sequence[tuple[str, Path]]) -> None:
    """Profile a single query on exported retrievers, each given as NAME DIR."""
    rows = []
    for name, folder in models:
        for row in rows_of(name, folder):
            click.echo("  ".join(f"{column}: {show(row)}" for column, show in COLUMNS.items()))
            rows.append(row)
    save(
        "operators",
        "Where the time of a single query goes",
        rows,
        columns=COLUMNS,
        notes=[
            f"{QUERIES} real queries of `apidocs`, one at a time, {torch.get_num_threads()} threads. `a graph a "
            "length` pads the queries, and leaves out those longer than its longest graph. A query is the median of "
            f"{ROUNDS} rounds without the profiler; operators are from a run with it, whose cost makes `between "
            "operators` too small.",
        ],
        settings={"queries": QUERIES, "rounds": ROUNDS},
    )


if __name__ == "__main__":
    main()
