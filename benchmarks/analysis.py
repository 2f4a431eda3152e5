"""Redundancy analysis: one streaming pass, and passes that keep all hidden states."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any

import click
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from benchmarks.processes import apart, forget_peak, peak_memory
from benchmarks.table import ratio, save, times
from effir.compress.redundancy import ENDS, measure_importance
from effir.cpu.prepacked_linear import prepack
from effir.data.calibration import load_calibration
from effir.model.checkpoint import calibration_batches, load_model
from effir.model.modeling import norms_of
from effir.model.shape import Sublayer
from stages.paths import BASE, CALIBRATION

SIZES = (64, 128, 256)
ROUNDS = 3
MAX_TOKENS, BATCH = 96, 16  # params.yaml's
Batches = list[dict[str, Tensor]]
Scores = dict[str, list[float]]


def streaming(model: Any, batches: Batches) -> Scores:
    """Score as the stage does: prepacked layers, sums instead of states."""
    prepack(model, torch.float32)
    found = measure_importance(model, batches)
    return {str(kind): scores for kind, scores in found.scores().items()}


def three_passes(model: Any, batches: Batches) -> Scores:
    """Keep all states before and after one kind of sublayer, a pass for each kind."""
    return {kind: kept(model, batches, (kind,))[kind] for kind in ENDS}


def two_passes(model: Any, batches: Batches) -> Scores:
    """Keep all states before and after blocks in one pass, attentions and MLPs in another."""
    return kept(model, batches, ("block",)) | kept(model, batches, ("attention", "mlp"))


WAYS: dict[str, Callable[[Any, Batches], Scores]] = {
    "a pass per kind, states kept": three_passes,
    "two passes, states kept": two_passes,
    "effir, one pass": streaming,
}


@torch.inference_mode()
def kept(model: Any, batches: Batches, kinds: Sequence[Sublayer]) -> Scores:
    """Run all batches, keep the points of the residual stream that the kinds need, then compare them."""
    places = {place for kind in kinds for place in ENDS[kind]}
    states: dict[tuple[int, str], list[Tensor]] = {}
    masks = [batch["attention_mask"].bool() for batch in batches]
    real = masks[:1]
    handles = list(_keeping(model, places, states, real))
    for batch, mask in zip(batches, masks, strict=True):
        real[0] = mask
        model(**batch, use_cache=False)
    for handle in handles:
        handle.remove()
    joined = {key: torch.cat(parts) for key, parts in states.items()}
    layers = range(len(model.layers))
    return {
        kind: [
            float((1 - cosine_similarity(joined[i, start], joined[i, end], dim=-1)).mean())
            for i in layers
            for start, end in (ENDS[kind],)
        ]
        for kind in kinds
    }


def _keeping(model: Any, places: set[str], states: dict[tuple[int, str], list[Tensor]], real: list[Tensor]) -> Any:
    def keep(key: tuple[int, str], hidden_states: Tensor) -> None:
        if key[1] in places:
            states.setdefault(key, []).append(hidden_states[real[0]])

    for i, layer in enumerate(model.layers):
        norm = getattr(layer, norms_of(layer)[1][0])
        yield layer.register_forward_pre_hook(lambda _, args, i=i: keep((i, "in"), args[0]))
        yield norm.register_forward_pre_hook(lambda _, args, i=i: keep((i, "mid"), args[0]))
        yield layer.register_forward_hook(
            lambda _, args, output, i=i: keep((i, "out"), output[0] if isinstance(output, tuple) else output)
        )


def measure(way: str, texts: int) -> dict[str, Any]:
    """Score the base model on ``texts`` texts; seconds and memory do not include opening the model."""
    model, tokenizer = load_model(BASE)
    batches = list(
        calibration_batches(tokenizer, load_calibration(CALIBRATION, texts), max_tokens=MAX_TOKENS, batch_size=BATCH)
    )
    model(**{key: value[:1, :4] for key, value in batches[0].items()})  # loads the rest of the libraries
    forget_peak()
    held, started = peak_memory(), perf_counter()
    scores = WAYS[way](model, batches)
    return {"seconds": perf_counter() - started, "memory_bytes": peak_memory() - held, "scores": scores}


def compare(sizes: Sequence[int], rounds: int) -> Iterator[dict[str, Any]]:
    """Yield a row per way and size; the ways take turns, each time in a fresh process."""
    for size in sizes:
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for number in range(rounds):
            for way in list(WAYS)[:: 1 if number % 2 == 0 else -1]:
                found[way].append(apart(measure, way, size))
        ours = found["effir, one pass"]
        for way, runs in found.items():
            off = max(
                abs(a - b)
                for kind, scores in runs[0]["scores"].items()
                for a, b in zip(scores, ours[0]["scores"][kind], strict=True)
            )
            seconds = [run["seconds"] for run in runs]
            yield {
                "texts": size,
                "way": way,
                "seconds": seconds,
                "memory_bytes": statistics.median(run["memory_bytes"] for run in runs),
                "effir_speedup": ratio(seconds, [run["seconds"] for run in ours]),
                "largest_difference": off,
            }


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "texts": lambda row: str(row["texts"]),
    "way": lambda row: row["way"],
    "seconds": lambda row: f"{statistics.median(row['seconds']):.1f}",
    "effir is faster, times": lambda row: times(row["effir_speedup"]),
    "memory in addition to the model": lambda row: f"{row['memory_bytes'] / 1e6:,.0f} MB",
    "scores differ from effir's by at most": lambda row: f"{row['largest_difference']:.1e}",
}


@click.command()
@click.option("--size", "sizes", multiple=True, type=int, default=SIZES, show_default=True)
@click.option("--rounds", default=ROUNDS, show_default=True)
def main(sizes: Sequence[int], rounds: int) -> None:
    """Score all sublayers of the base model in each way, on growing numbers of calibration texts."""
    rows = []
    for row in compare(sizes, rounds):
        click.echo("  ".join(f"{name}: {show(row)}" for name, show in COLUMNS.items()))
        rows.append(row)
    save(
        "analysis",
        "Redundancy analysis",
        rows,
        columns=COLUMNS,
        notes=[
            f"The base model on real calibration texts, cut at {MAX_TOKENS} tokens, {BATCH} a batch, float32. Memory "
            "is the peak minus that of the process with the open model: effir's holds the prepacked layers, a second "
            "copy of the weights, for any number of texts.",
        ],
        settings={"sizes": sizes, "rounds": rounds, "max_tokens": MAX_TOKENS, "batch_size": BATCH},
    )


if __name__ == "__main__":
    main()
