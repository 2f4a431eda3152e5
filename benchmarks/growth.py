"""Time and memory of building an index as the corpus grows: a process a size, the pipeline's own code and retriever."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import click

from benchmarks.processes import apart, forget_peak, peak_memory
from benchmarks.table import save
from effir.data.beir import open_collection
from effir.encoding.shards import Encoder, Entry, Vectors
from effir.index.faiss_index import build_index
from stages.paths import EVAL, RETRIEVER

SIZES = (1_000, 10_000, 100_000)
TOKENS = 8  # at which texts are cut, so that the largest size takes minutes instead of hours
BATCH_TOKENS = 1024
FACTORY = "Flat"
FLAT = 200e6  # bytes that memory may grow between two sizes, beside the index itself


def encoder() -> Encoder:
    """Open what encodes the texts: here and nowhere else stands which one."""
    from effir.encoding.backends import open_encoder  # imports torch

    found = open_encoder(RETRIEVER, "torch", "auto", BATCH_TOKENS)
    found.reader.tokenizer.enable_truncation(TOKENS)
    return found.documents


def documents() -> Iterator[Entry]:
    """Stream the real corpus over and over, each time with other texts; it never ends and is never held."""
    collection = open_collection(EVAL / "apidocs")
    for copy in count():
        for document in collection.documents():
            yield f"{document.id}#{copy}", document.title, f"{copy} {document.content}"


def build(size: int, factory: str, folder: Path) -> dict[str, Any]:
    """Index so many documents; memory is this process's, ``start_bytes`` what it held with the model alone."""
    encode = encoder()
    encode(["a text that makes the model allocate what it needs"])
    forget_peak()  # which opening the model left high
    started = peak_memory()
    highest = partial(_noting, encode, encoded := [0])
    into = folder / "index"
    report = build_index(islice(documents(), size), highest, into, factory=factory, work=folder / "work")
    return {
        "documents": report.documents,
        "encoding_seconds": report.encoding_seconds,
        "building_seconds": report.building_seconds,
        "index_bytes": (into / "index.faiss").stat().st_size,
        "start_bytes": started,
        "encoding_peak_bytes": encoded[0],
        "peak_bytes": peak_memory(),
    }


def _noting(encode: Encoder, peak: list[int], texts: list[str]) -> Vectors:
    vectors = encode(texts)
    peak[0] = peak_memory()
    return vectors


def without_index(row: Mapping[str, Any]) -> float:
    """Return the most memory beside the index's own bytes, which every index of that kind must hold."""
    return float(max(row["encoding_peak_bytes"], row["peak_bytes"] - row["index_bytes"]))


def per_thousand(row: Mapping[str, Any]) -> float:
    """Return the seconds that a thousand documents took."""
    return float((row["encoding_seconds"] + row["building_seconds"]) / row["documents"] * 1000)


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say whether time is linear and memory flat, from the smallest size to the largest."""
    first, last = rows[0], rows[-1]
    growth = without_index(last) - without_index(first)
    return (
        f"{last['documents'] / first['documents']:.0f} times the documents took "
        f"{per_thousand(last) / per_thousand(first):.2f} times the seconds a document, and "
        f"{growth / 1e6:+.0f} MB of memory beside the index: {'flat' if growth < FLAT else 'NOT flat'} to "
        f"{FLAT / 1e6:.0f} MB."
    )


def megabytes(name: str) -> Callable[[Mapping[str, Any]], str]:
    """Show one of a row's figures.

    >>> megabytes("bytes")({"bytes": 230_400_000})
    '230 MB'
    """
    return lambda row: f"{row[name] / 1e6:.0f} MB"


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "documents": lambda row: f"{row['documents']:,}",
    "encoding": lambda row: f"{row['encoding_seconds']:.1f} s",
    "indexing": lambda row: f"{row['building_seconds']:.2f} s",
    "a thousand": lambda row: f"{per_thousand(row):.2f} s",
    "model alone": megabytes("start_bytes"),
    "peak while encoding": megabytes("encoding_peak_bytes"),
    "peak in all": megabytes("peak_bytes"),
    "the index": megabytes("index_bytes"),
    "peak without the index": lambda row: f"{without_index(row) / 1e6:.0f} MB",
}


@click.command()
@click.option("--size", "sizes", multiple=True, type=int, default=SIZES, show_default=True)
@click.option("--factory", default=FACTORY, show_default=True)
def main(sizes: Sequence[int], factory: str) -> None:
    """Build the index of a growing corpus; other sizes or factories than the table's are printed, not kept."""
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            row = apart(build, size, factory, Path(folder))
        click.echo("  ".join(f"{name}: {show(row)}" for name, show in COLUMNS.items()))
        rows.append(row)
    if tuple(sizes) == SIZES and factory == FACTORY:
        keep(rows)


def keep(rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the table."""
    save(
        "growth",
        "Building the index of a growing corpus",
        rows,
        columns=COLUMNS,
        notes=[
            verdict(rows),
            f"Texts of `apidocs`, repeated with another beginning each time and cut at {TOKENS} tokens, "
            "encoded by the real retriever: at full length the largest size would take hours.",
            f"Memory is resident memory, each size in a process of its own, model and libraries included. `{FACTORY}` "
            "holds every vector in full, so that the index itself must grow; other kinds hold less "
            "(`python -m benchmarks.search`). Texts and vectors go through memory a shard of 4,096 at a time.",
        ],
        settings={"sizes": SIZES, "tokens": TOKENS, "batch_tokens": BATCH_TOKENS, "factory": FACTORY},
    )


if __name__ == "__main__":
    main()
