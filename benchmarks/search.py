"""Kinds of FAISS index side by side on a million vectors: build time, bytes, recall, queries a second, memory."""

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import faiss
import numpy as np
from numpy.typing import NDArray
from psutil import Process

from benchmarks.processes import apart, peak_memory
from benchmarks.table import save
from effir.encoding.encoder import Vectors
from effir.encoding.shards import Entry, reporting
from effir.evaluation.speed import alternate
from effir.files import require
from effir.index.faiss_index import SearchIndex, build_index, open_index
from stages.paths import INDEXES

VECTORS = 1_000_000
QUERIES = 500
ALONE = 100  # of the queries, those timed one at a time
ROUNDS = 3
K = 10
SHARD = 4096
SEED = 0
REACH = 1.5  # a query's step over a document's: in `apidocs` the median cosines of the nearest are 0.72 and 0.88
TAIL = 1.5  # of the Pareto distribution of the clusters' sizes: the largest 1 % hold about a quarter of the vectors
SEARCHES = {
    "Flat": [""],
    "SQ8": [""],
    "HNSW32": ["efSearch=16", "efSearch=64", "efSearch=256"],
    "IVF1024,SQ8": ["nprobe=16", "nprobe=64"],
    "IVF1024,PQ96": ["nprobe=16", "nprobe=64"],
    "IVF1024,PQ96,Refine(SQ8)": ["nprobe=16,k_factor_rf=10", "nprobe=64,k_factor_rf=10"],
}
"""Factories, and the search-time settings to try with each; the first is exact and judges the others."""


@dataclass(frozen=True)
class Cloud:
    """Synthetic vectors that resemble a real corpus: each is a real document's vector plus a step.

    Steps have the lengths and directions of those from a real document to its nearest neighbour, so that distances and
    effective dimensions are realistic. Some documents get many more vectors than others.
    """

    centres: Vectors
    shares: NDArray[np.float64] = field(repr=False)
    lengths: Vectors = field(repr=False)
    directions: Vectors = field(repr=False)

    @classmethod
    def around(cls, centres: Vectors) -> "Cloud":
        """Measure the steps of a corpus: (documents, dimension) unit vectors, more documents than dimensions."""
        alike = centres @ centres.T
        np.fill_diagonal(alike, -1)
        steps = centres[alike.argmax(axis=1)] - centres
        sizes = np.random.default_rng(SEED).pareto(TAIL, len(centres)) + 0.1
        spread = np.linalg.cholesky(steps.T @ steps / len(steps) + 1e-6 * np.eye(steps.shape[1]))
        lengths = np.linalg.norm(steps, axis=1)
        return cls(centres, sizes / sizes.sum(), lengths, np.ascontiguousarray(spread.T, dtype=np.float32))

    def draw(self, count: int, *seed: int, reach: float = 1.0) -> Vectors:
        """Draw (count, dimension) unit vectors, reproducible by the seed, with steps ``reach`` times as long."""
        rng = np.random.default_rng((SEED, *seed))
        away = rng.standard_normal((count, len(self.directions)), dtype=np.float32) @ self.directions
        away *= (reach * rng.choice(self.lengths, count) / np.linalg.norm(away, axis=1))[:, None]
        found = self.centres[rng.choice(len(self.centres), count, p=self.shares)] + away
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        return found

    def shard(self, numbers: list[str]) -> Vectors:
        """Draw the vectors of one shard, in place of an encoder; its texts are numbers."""
        return self.draw(len(numbers), 0, int(numbers[0]))

    def queries(self) -> Vectors:
        """Draw the queries; they are farther from documents than documents are from each other."""
        return self.draw(QUERIES, 1, reach=REACH)


def real_cloud() -> Cloud:
    """Read the vectors of the pipeline's corpus."""
    index = faiss.read_index(str(require(INDEXES / "apidocs/index.faiss")))
    return Cloud.around(index.reconstruct_n(0, index.ntotal))


def documents(count: int) -> Iterator[Entry]:
    """Stream documents whose text is their number."""
    return ((str(row), "", str(row)) for row in range(count))


def build(factory: str, count: int, folder: Path) -> dict[str, Any]:
    """Build an index by the pipeline's code; seconds of training, adding and writing."""
    report = build_index(
        documents(count),
        reporting(real_cloud().shard),
        folder,
        factory=factory,
        work=folder.with_suffix(".work"),
        shard_size=SHARD,
    )
    return {
        "build_seconds": report.building_seconds,
        "bytes": (folder / "index.faiss").stat().st_size,
        "build_peak_bytes": peak_memory(),
    }


def search(folder: Path, settings: str) -> tuple[dict[str, Any], list[set[str]]]:
    """Search all queries at once and some one at a time; return measurements and the ids found for each query."""
    queries = real_cloud().queries()
    before = Process().memory_info().rss
    index = open_index(folder, settings)
    found = [{hit.id for hit in hits} for hits in index.search(queries, K)]
    held = Process().memory_info().rss - before
    took = alternate({"all": lambda: index.search(queries, K)}, ROUNDS)["all"]
    alone = waits(index, queries[:ALONE])
    figures = {
        "open_bytes": held,
        "queries_per_second": QUERIES / statistics.median(took),
        "batch_seconds": took,
        "alone_p50_seconds": statistics.median(alone),
        "alone_p95_seconds": statistics.quantiles(alone, n=20)[-1],
    }
    return figures, found


def waits(index: SearchIndex, queries: Vectors) -> list[float]:
    """Return the seconds of each query, searched one at a time."""
    seconds = []
    for query in queries:
        started = perf_counter()
        index.search(query[None], K)
        seconds.append(perf_counter() - started)
    return seconds


def recall(found: Sequence[set[str]], exact: Sequence[set[str]]) -> float:
    """Return the share of exact neighbours among the results.

    >>> recall([{"a", "b"}, {"c", "x"}], [{"a", "b"}, {"c", "d"}])
    0.75
    """
    return sum(len(some & all_) for some, all_ in zip(found, exact, strict=True)) / sum(map(len, exact))


def compare(searches: Mapping[str, Sequence[str]], count: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each factory and setting, one index on disk at a time; the first factory is the exact one."""
    exact: list[set[str]] = []
    for number, (factory, settings) in enumerate(searches.items()):
        place = folder / str(number)
        built = apart(build, factory, count, place)
        for setting in settings:
            figures, found = apart(search, place, setting)
            exact = exact or found
            yield {"factory": factory, "settings": setting, **built, "recall": recall(found, exact), **figures}
        for member in place.iterdir():
            member.unlink()


def advice(rows: Sequence[Mapping[str, Any]], enough: float = 0.95) -> str:
    """Recommend the fastest and the smallest index with a recall of at least ``enough``."""
    good = [row for row in rows if row["recall"] >= enough]
    exact, fastest = rows[0], max(good, key=lambda row: row["queries_per_second"])
    smallest = min(good, key=lambda row: (row["bytes"], -row["queries_per_second"]))
    return (
        f"Use `{exact['factory']}` if {exact['alone_p50_seconds'] * 1000:.0f} ms a query and "
        f"{gigabytes(exact['bytes'])} are acceptable. With a recall of at least {enough:.0%}, "
        f"{_named(fastest)} is the fastest, {_against(fastest, exact)}, and {_named(smallest)} is the smallest, "
        f"{_against(smallest, exact)}."
    )


def _named(row: Mapping[str, Any]) -> str:
    return f"`{row['factory']}` with {row['settings']}" if row["settings"] else f"`{row['factory']}`"


def _against(row: Mapping[str, Any], exact: Mapping[str, Any]) -> str:
    faster = row["queries_per_second"] / exact["queries_per_second"]
    return f"{faster:.3g} times the queries a second in {row['bytes'] / exact['bytes']:.0%} of the bytes"


def gigabytes(count: float) -> str:
    """Format bytes.

    >>> gigabytes(2_304_000_000)
    '2.30 GB'
    """
    return f"{count / 1e9:.2f} GB"


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "factory": lambda row: f"`{row['factory']}`",
    "settings": lambda row: row["settings"] or "none",
    "build": lambda row: f"{row['build_seconds']:.0f} s",
    "peak of the build": lambda row: gigabytes(row["build_peak_bytes"]),
    "on disk": lambda row: gigabytes(row["bytes"]),
    "in memory": lambda row: gigabytes(row["open_bytes"]),
    "recall@10": lambda row: f"{row['recall']:.3f}",
    "queries a second": lambda row: f"{row['queries_per_second']:.0f}",
    "one alone, p50": lambda row: f"{row['alone_p50_seconds'] * 1000:.1f} ms",
}


@click.command()
@click.option("--vectors", default=VECTORS, show_default=True, help="Results of fewer are printed, not saved.")
@click.option("--factory", "factories", multiple=True, help="Try these instead; printed, not saved.")
@click.option("--settings", multiple=True, default=[""], help="Search-time settings of those factories.")
def main(vectors: int, factories: Sequence[str], settings: Sequence[str]) -> None:
    """Compare kinds of index; the table is written to benchmarks/results."""
    searches = {"Flat": [""], **{factory: list(settings) for factory in factories}} if factories else SEARCHES
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in compare(searches, vectors, Path(folder)):
            click.echo("  ".join(f"{name}: {show(row)}" for name, show in COLUMNS.items()))
            rows.append(row)
    if vectors == VECTORS and not factories:
        keep(rows, real_cloud())


def keep(rows: Sequence[Mapping[str, Any]], cloud: Cloud) -> None:
    """Write the table."""
    dimension = cloud.centres.shape[1]
    save(
        "search",
        f"Kinds of index: {VECTORS:,} vectors of dimension {dimension}",
        rows,
        columns=COLUMNS,
        notes=[
            advice(rows),
            f"The vectors lie around the {len(cloud.centres):,} of the index `apidocs`, at the distances and in the "
            "directions of its nearest neighbours, in clusters of heavy-tailed sizes; the "
            f"{QUERIES} queries were drawn in the same way. Results of another corpus differ.",
            "Build: training, adding and writing by `effir.index.faiss_index.build_index`, without encoding, in a "
            f"process of its own, like each search. Queries a second: all {QUERIES} in one call, median of {ROUNDS}; "
            f"one alone: median of {ALONE}.",
        ],
        settings={"vectors": VECTORS, "queries": QUERIES, "k": K, "seed": SEED, "tail": TAIL, "searches": SEARCHES},
    )


if __name__ == "__main__":
    main()
