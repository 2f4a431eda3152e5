"""Time and memory of building an index as the corpus grows: a process for each size, the pipeline's retriever."""

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
from effir.encoding.encoder import Report, Vectors
from effir.encoding.shards import Encoder, Entry
from effir.index.faiss_index import build_index
from stages.paths import EVAL, RETRIEVER

SIZES = (1_000, 10_000, 100_000)
TOKENS = 8  # texts are truncated, so that the largest size takes minutes instead of hours
BATCH_TOKENS = 1024
FACTORY = "Flat"
FLAT = 200e6  # bytes that memory may grow from the smallest size to the largest, without the index


def encoder() -> Encoder:
    """Open the encoder."""
    from effir.encoding.backends import open_encoder  # imports torch

    found = open_encoder(RETRIEVER, "torch", "auto", BATCH_TOKENS)
    found.reader.tokenizer.enable_truncation(TOKENS)
    return found.documents


def documents() -> Iterator[Entry]:
    """Stream the real corpus endlessly, each copy with another beginning."""
    collection = open_collection(EVAL / "apidocs")
    for copy in count():
        for document in collection.documents():
            yield f"{document.id}#{copy}", document.title, f"{copy} {document.content}"


def build(size: int, factory: str, folder: Path) -> dict[str, Any]:
    """Index ``size`` documents; memory is that of this process, ``start_bytes`` with only the model loaded."""
    encode = encoder()
    encode(["a text that makes the model allocate its buffers"], lambda count: None)
    forget_peak()  # opening the model takes more
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


def _noting(encode: Encoder, peak: list[int], texts: list[str], report: Report) -> Vectors:
    vectors = encode(texts, report)
    peak[0] = peak_memory()
    return vectors


def without_index(row: Mapping[str, Any]) -> float:
    """Return the peak memory without the bytes of the index, which any index of that kind needs."""
    return float(max(row["encoding_peak_bytes"], row["peak_bytes"] - row["index_bytes"]))


def per_thousand(row: Mapping[str, Any]) -> float:
    """Return the seconds for a thousand documents."""
    return float((row["encoding_seconds"] + row["building_seconds"]) / row["documents"] * 1000)


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say whether time grows linearly and memory stays flat, from the smallest size to the largest."""
    first, last = rows[0], rows[-1]
    growth = without_index(last) - without_index(first)
    return (
        f"{last['documents'] / first['documents']:.0f} times the documents took "
        f"{per_thousand(last) / per_thousand(first):.2f} times the seconds a document, and "
        f"{growth / 1e6:+.0f} MB of memory beside the index: {'flat' if growth < FLAT else 'NOT flat'} to "
        f"{FLAT / 1e6:.0f} MB."
    )


def megabytes(name: str) -> Callable[[Mapping[str, Any]], str]:
    """Format a column of bytes.

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
    """Build the index of a growing corpus; results of other sizes or factories are printed, not saved."""
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
            f"Texts of `apidocs`, repeated with another beginning each time and truncated to {TOKENS} tokens, "
            "encoded by the real retriever: at full length the largest size would take hours.",
            f"Resident memory with model and libraries, each size in a process of its own. `{FACTORY}` holds every "
            "vector in full, so the index grows; other kinds take less (`python -m benchmarks.search`). Only one shard "
            "of 4,096 texts and vectors is in memory at a time.",
        ],
        settings={"sizes": SIZES, "tokens": TOKENS, "batch_tokens": BATCH_TOKENS, "factory": FACTORY},
    )


if __name__ == "__main__":
    main()
