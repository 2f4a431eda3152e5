"""Peak memory of a fine-tuning step, by its batch: all activations at once, or those of a mini-batch at a time."""

import statistics
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import click
import torch

from benchmarks.processes import apart, forget_peak, peak_memory
from benchmarks.table import save
from benchmarks.training import batches, opened
from effir.cpu.lora_kernel import lora_products
from effir.model.precision import arithmetic, uses_bfloat16
from effir.params import load_params
from effir.training.losses import ranking_loss
from effir.training.trainer import add_adapters
from stages.paths import WIDTH
from stages.schedules import adapters_of, finetune_schedule

WAYS = ((16, 0), (32, 0), (16, 8), (128, 16), (128, 32))
"""Queries per step, and texts whose activations are in memory; 0 keeps all."""
STEPS = 2


def step(batch_size: int, mini_batch: int) -> dict[str, Any]:
    """Take steps with the model and settings of the pipeline, except the batch; the peak is of this process."""
    params = load_params()
    schedule = finetune_schedule(params)
    model = opened(WIDTH, params)
    columns = batches(model, batch_size, params.training.negatives, schedule.max_tokens)[:STEPS]
    add_adapters(model, adapters_of(params, params.finetune.lora_rank), schedule.seed)
    loss = ranking_loss(model, params.training.temperature, mini_batch=mini_batch)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser, seconds = torch.optim.AdamW(trained, lr=1e-6), []
    with lora_products(model, arithmetic(schedule.precision)):
        forget_peak()
        before = peak_memory()
        for batch in columns:
            started = perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=uses_bfloat16(schedule.precision)):
                loss([dict(side) for side in batch], None).backward()
                optimiser.step()
                optimiser.zero_grad()
            seconds.append(perf_counter() - started)
    return {
        "batch_size": batch_size,
        "mini_batch": mini_batch,
        "model_bytes": before,
        "peak_bytes": peak_memory(),
        "seconds": statistics.median(seconds),
        "texts": batch_size * (2 + params.training.negatives),
    }


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "queries per step": lambda row: str(row["batch_size"]),
    "texts in memory at a time": lambda row: str(row["mini_batch"] or "all"),
    "peak memory": lambda row: f"{row['peak_bytes'] / 2**30:.2f} GiB",
    "of that, before the first step": lambda row: f"{row['model_bytes'] / 2**30:.2f} GiB",
    "seconds per step": lambda row: f"{row['seconds']:.1f}",
    "seconds per 100 texts": lambda row: f"{100 * row['seconds'] / row['texts']:.1f}",
}


@click.command()
def main() -> None:
    """Take fine-tuning steps with growing batches, each in a process of its own."""
    rows = []
    for way in WAYS:
        rows.append(apart(step, *way))
        click.echo("  ".join(f"{name}: {show(rows[-1])}" for name, show in COLUMNS.items()))
    save(
        "memory",
        "Peak memory of a fine-tuning step",
        rows,
        columns=COLUMNS,
        notes=[
            f"The cut model and settings of the default pipeline, {STEPS} steps; the texts in memory are set by "
            "`training.mini_batch`. Peaks are the resident memory of the process, libraries included."
        ],
        settings={"ways": WAYS, "steps": STEPS},
    )


if __name__ == "__main__":
    main()
