"""What a lone query waits for: the operators of the OpenVINO graph, timed one by one, beside what a query takes."""

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
from effir.encoding.openvino import compiled_graph, padded_alone
from effir.encoding.text_reader import TextReader
from stages.paths import EVAL

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
QUERIES = 40
ROUNDS = 5
QUERY = "**a query**"

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


def waits(graphs: Mapping[int, Any], feeds: Sequence[Feed]) -> list[float]:
    """Return the seconds that each query takes, after a round that is not timed."""
    requests, seconds = _requests(graphs), []
    for turn in range(ROUNDS + 1):
        for feed in feeds:
            started = perf_counter()
            requests(feed).infer(feed, share_inputs=True)
            if turn:
                seconds.append(perf_counter() - started)
    return seconds


def _requests(graphs: Mapping[int, Any]) -> Callable[[Feed], Any]:
    """Return what finds the request for a query: by its length, or the one for any shape, 0."""
    requests = {length: graph.create_infer_request() for length, graph in graphs.items()}
    return lambda feed: requests.get(feed["input_ids"].shape[1]) or requests[0]


def by_kind(graphs: Mapping[int, Any], feeds: Sequence[Feed]) -> dict[str, tuple[float, float]]:
    """Return the seconds and the number of operators a query, by what they are and the kernel that runs them."""
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
    """Yield a row a kind of operator that takes at least so large a share of a query, and one for the rest."""
    feeds = lone_queries(TextReader.open(folder))
    fixed = [{**f, "input_ids": found} for f in feeds if (found := padded_alone(f["input_ids"])) is not None]
    lengths = sorted({feed["input_ids"].shape[1] for feed in fixed})
    for precision in PRECISIONS:
        for way, each, shapes in (("any shape", feeds, [0]), ("a graph a length", fixed, lengths)):
            compiled = partial(_compiled, graph_of(folder, precision), precision, shapes)
            p50, lone = (statistics.median(waits(compiled(INFERENCE_NUM_THREADS=n), each)) for n in (2, 1))
            common = {"model": name, "precision": precision, "way": way, "seconds": p50, "one_thread_seconds": lone}
            kinds = by_kind(compiled(PERF_COUNT=True), each)
            yield from ({**common, **row} for row in _shares(kinds, p50, least))


def _compiled(folder: Path, precision: str, lengths: Sequence[int], **settings: object) -> dict[int, Any]:
    return {length: compiled_graph(folder, precision, length or None, **settings) for length in lengths}


def _shares(kinds: Mapping[str, tuple[float, float]], whole: float, least: float) -> Iterator[dict[str, Any]]:
    large = {kind: each for kind, each in kinds.items() if each[0] >= least * whole}
    rest = [each for kind, each in kinds.items() if kind not in large]
    known = sum(seconds for seconds, _ in kinds.values())
    yield {"kind": QUERY, "operators": sum(each[1] for each in kinds.values()), "took": whole}
    for kind, (seconds, count) in sorted(large.items(), key=lambda item: -item[1][0]):
        yield {"kind": kind, "operators": count, "took": seconds}
    yield {"kind": "others", "operators": sum(each[1] for each in rest), "took": sum(each[0] for each in rest)}
    yield {"kind": "between operators", "operators": 0, "took": whole - known}


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
            f"{QUERIES} real queries of `apidocs`, one at a time, {torch.get_num_threads()} threads; padded only where "
            "there is a graph a length, and those longer than the longest of these are left out there. A query is the "
            f"median of {ROUNDS} rounds without the profiler, operators are from a run with it. What it costs makes "
            "`between operators` smaller than it is.",
        ],
        settings={"queries": QUERIES, "rounds": ROUNDS},
    )


if __name__ == "__main__":
    main()
