"""What a lone query waits for: the operators of the OpenVINO graph, timed one by one, beside what a query takes."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from effir.encoding.openvino import compiled_graph
from effir.encoding.texts import TextReader
from stages.paths import EVAL

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
QUERIES = 40
ROUNDS = 5

Feed = dict[str, Any]


def lone_queries(reader: TextReader) -> list[Feed]:
    """Lay out real queries of `apidocs`, one a batch."""
    collection = open_collection(EVAL / "apidocs")
    queries = list(collection.queries(collection.evaluation_split()).values())[:QUERIES]
    found = []
    for ids in reader.read(queries, "query"):
        lengths = np.array([len(ids)], dtype=np.int64)
        found.append({"input_ids": padded([ids], np.array([0]), lengths), "lengths": lengths})
    return found


def waits(graph: Any, feeds: Sequence[Feed]) -> list[float]:
    """Return the seconds that each query takes, after a round in which each length is compiled."""
    request, seconds = graph.create_infer_request(), []
    for turn in range(ROUNDS + 1):
        for feed in feeds:
            started = perf_counter()
            request.infer(feed, share_inputs=True)
            if turn:
                seconds.append(perf_counter() - started)
    return seconds


def by_kind(graph: Any, feeds: Sequence[Feed]) -> dict[str, tuple[float, float]]:
    """Return the seconds and the number of operators a query, by what they are and the kernel that runs them."""
    request = graph.create_infer_request()
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for feed in feeds:
        request.infer(feed)
    for feed in feeds:
        request.infer(feed)
        for node in request.profiling_info:
            if node.real_time.total_seconds() > 0:
                kind = found[f"{node.node_type}, {node.exec_type}"]
                kind[0] += node.real_time.total_seconds() / len(feeds)
                kind[1] += 1 / len(feeds)
    return {kind: (seconds, count) for kind, (seconds, count) in found.items()}


def rows_of(name: str, folder: Path, least: float = 0.02) -> Iterator[dict[str, Any]]:
    """Yield a row a kind of operator that takes at least so large a share of a query, and one for the rest."""
    feeds = lone_queries(TextReader.open(folder))
    for precision in PRECISIONS:
        place = graph_of(folder, precision)
        alone = {n: waits(compiled_graph(place, precision, INFERENCE_NUM_THREADS=n), feeds) for n in (1, 2)}
        kinds = by_kind(compiled_graph(place, precision, PERF_COUNT=True), feeds)
        p50 = statistics.median(alone[2])
        large = {kind: each for kind, each in kinds.items() if each[0] >= least * p50}
        rest = [each for kind, each in kinds.items() if kind not in large]
        known = sum(seconds for seconds, _ in kinds.values())
        common = {
            "model": name,
            "precision": precision,
            "seconds": p50,
            "one_thread_seconds": statistics.median(alone[1]),
        }
        yield {**common, "kind": "**a query**", "operators": sum(each[1] for each in kinds.values()), "took": p50}
        for kind, (seconds, count) in sorted(large.items(), key=lambda item: -item[1][0]):
            yield {**common, "kind": kind, "operators": count, "took": seconds}
        yield {**common, "kind": "others", "operators": sum(e[1] for e in rest), "took": sum(e[0] for e in rest)}
        yield {**common, "kind": "between operators", "operators": 0, "took": p50 - known}


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "model": lambda row: row["model"],
    "precision": lambda row: row["precision"],
    "operator and kernel": lambda row: row["kind"],
    "how many": lambda row: f"{row['operators']:.0f}" if row["operators"] else "",
    "ms": lambda row: f"{row['took'] * 1e3:.2f}",
    "share": lambda row: f"{row['took'] / row['seconds']:.0%}",
    "one thread, ms": lambda row: f"{row['one_thread_seconds'] * 1e3:.2f}" if row["kind"] == "**a query**" else "",
}


@click.command()
@click.option("--model", "models", multiple=True, required=True, type=(str, click.Path(path_type=Path)))
def main(models: Sequence[tuple[str, Path]]) -> None:
    """Profile a lone query on exported retrievers, each named: NAME DIR."""
    rows = []
    for name, folder in models:
        for row in rows_of(name, folder):
            click.echo("  ".join(f"{column}: {show(row)}" for column, show in COLUMNS.items()))
            rows.append(row)
    save(
        "operators",
        "What a lone query waits for",
        rows,
        columns=COLUMNS,
        notes=[
            f"{QUERIES} real queries of `apidocs`, one at a time and not padded, {torch.get_num_threads()} threads; "
            f"a query is the median of {ROUNDS} rounds without the profiler, operators are from a run with it. What "
            "it costs makes `between operators` smaller than it is.",
        ],
        settings={"queries": QUERIES, "rounds": ROUNDS},
    )


if __name__ == "__main__":
    main()
