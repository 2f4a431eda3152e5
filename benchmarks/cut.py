"""The speed-up of a cut model over the uncompressed one, both in PyTorch float32, and the ratio of their FLOPs."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.table import ratio, save, times
from effir.data.beir import open_collection
from effir.encoding.encoder import TextEncoder, padded
from effir.encoding.pytorch import torch_encoder
from effir.encoding.text_reader import TextReader
from effir.evaluation.speed import alternate
from effir.model.checkpoint import load_model
from effir.model.shape import shape_of
from stages.paths import BASE, EVAL, RETRIEVER

SIZES = (1, 2, 8, 32)
TEXTS = 64
SINGLE = 24  # texts at a batch of one
PROFILED = 4  # batches of the shortest texts: the profiler costs more than the work
PRODUCTS = "mkldnn::_linear_pointwise"  # of prepacked weights

Run = Callable[[], None]


def batches(reader: TextReader, size: int) -> list[tuple[Any, Any]]:
    """Lay out real documents of similar length as batches of ``size`` token ids and lengths."""
    contents = [document.content for document in open_collection(EVAL / "apidocs").documents()]
    count = TEXTS if size > 1 else SINGLE
    ids = sorted(reader.read(contents[:: len(contents) // count][:count], "document"), key=len)
    lengths = np.array([len(text) for text in ids], dtype=np.int64)
    rows = [np.arange(start, min(start + size, count)) for start in range(0, count, size)]
    return [(padded(ids, some, lengths), lengths[some]) for some in rows]


def running(encoder: TextEncoder, work: Sequence[tuple[Any, Any]]) -> Run:
    """Return a function that encodes all batches."""

    def run() -> None:
        list(encoder.forward(work))

    return run


def outside_products(run: Run) -> float:
    """Return the share of time outside products with weights: other operators, attention included, and Python."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run()
    events = seen.key_averages()
    total = max(event.time_range.end for event in seen.events()) - min(e.time_range.start for e in seen.events())
    inside = sum(event.self_cpu_time_total for event in events if event.key.startswith(PRODUCTS))
    return float(1 - inside / total)


def compare(folders: Mapping[str, Path], sizes: Sequence[int], rounds: int) -> Iterator[dict[str, Any]]:
    """Yield a row per cut model and batch size; ``base`` is the uncompressed model."""
    reader = TextReader.open(RETRIEVER)
    encoders = {name: torch_encoder(load_model(path)[0], reader, "float32", 1024) for name, path in folders.items()}
    for size in sizes:
        work = batches(reader, size)
        runs = {name: running(encoder, work) for name, encoder in encoders.items()}
        seconds = alternate(runs, rounds)
        context = round(statistics.mean(float(lengths.mean()) for _, lengths in work))
        flops = {name: shape_of(path).flops_per_token(context) for name, path in folders.items()}
        for name in list(folders)[1:]:
            speedup, flops_ratio = ratio(seconds["base"], seconds[name]), flops["base"] / flops[name]
            yield {
                "model": name,
                "batch": size,
                "seconds": seconds[name],
                "seconds_base": seconds["base"],
                "speedup": speedup,
                "flops_ratio": flops_ratio,
                "share_of_flops_ratio": speedup["median"] / flops_ratio,
                "outside_products": outside_products(running(encoders[name], work[:PROFILED])),
                "outside_products_base": outside_products(running(encoders["base"], work[:PROFILED])),
            }


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "model": lambda row: row["model"],
    "texts per batch": lambda row: str(row["batch"]),
    "FLOPs ratio": lambda row: f"{row['flops_ratio']:.2f}",
    "speed-up over the uncompressed model": lambda row: times(row["speedup"]),
    "share of the FLOPs ratio": lambda row: f"{row['share_of_flops_ratio']:.2f}",
    "time outside products": lambda row: f"{row['outside_products']:.0%}",
    "the same, uncompressed": lambda row: f"{row['outside_products_base']:.0%}",
}


@click.command()
@click.option("--model", "models", multiple=True, type=(str, click.Path(path_type=Path)), help="Another cut: NAME DIR.")
@click.option("--size", "sizes", multiple=True, type=int, default=SIZES, show_default=True)
@click.option("--rounds", default=5, show_default=True)
def main(models: Sequence[tuple[str, Path]], sizes: Sequence[int], rounds: int) -> None:
    """Encode the same batches by the base model and by cut ones in turn."""
    rows = []
    for row in compare({"base": BASE, "default": RETRIEVER, **dict(models)}, sizes, rounds):
        click.echo("  ".join(f"{name}: {show(row)}" for name, show in COLUMNS.items()))
        rows.append(row)
    save(
        "cut",
        "Speed-up of the cut",
        rows,
        columns=COLUMNS,
        notes=[
            f"Both models in effir's `torch` backend, float32, {torch.get_num_threads()} threads, one process; "
            f"{TEXTS} documents of `apidocs` of similar length together ({SINGLE} at one text per batch), {rounds} "
            "rounds.",
            "Time outside products: other operators and Python in the profile. The profiler slows both models, so the "
            "share is approximate.",
        ],
        settings={"sizes": sizes, "texts": TEXTS, "single": SINGLE, "rounds": rounds},
    )


if __name__ == "__main__":
    main()
