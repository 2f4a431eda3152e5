"""Choose: one ranking over the MLP channels of all layers, and the file that keeps their scores (EffiR, sec. 3.2)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from effir.errors import EffirError
from effir.files import writing

ChannelScores = dict[int, Tensor]
"""Layer to the scores of its MLP's channels, shape (width,). Channels with higher scores are kept."""


def save_scores(scores: ChannelScores, method: str, into: Path) -> None:
    """Write the scores and the name of their method as one safetensors file."""
    with writing(into) as draft:
        save_file({str(layer): score.contiguous() for layer, score in scores.items()}, draft, {"method": method})


def load_scores(path: Path) -> tuple[ChannelScores, str]:
    """Read the file of :func:`save_scores`: the scores, layers ascending, and their method."""
    with safe_open(path, framework="pt") as file:
        scores = {layer: file.get_tensor(str(layer)) for layer in sorted(map(int, file.keys()))}
        return scores, file.metadata()["method"]


def choose_channels(scores: ChannelScores, keep: float, multiple_of: int) -> dict[int, list[int]]:
    """Rank the channels of all layers together and keep the share ``keep``; layer to kept channels, ascending.

    Widths are rounded to ``multiple_of`` by largest remainder, so that the total kept is within one rounding step.
    Equal scores are kept in the order of layers and channels.

    >>> choose_channels({0: torch.tensor([0.9, 0.1]), 2: torch.tensor([0.8, 0.7])}, keep=0.5, multiple_of=1)
    {0: [0], 2: [0]}
    """
    available = {layer: len(score) for layer, score in scores.items()}
    if keep == 1:
        return {layer: list(range(width)) for layer, width in available.items()}
    layer_of = torch.cat([torch.full((width,), layer) for layer, width in available.items()])
    ranking = torch.sort(torch.cat([s.float() for s in scores.values()]), descending=True, stable=True).indices
    kept = layer_of[ranking[: round(keep * len(ranking))]]
    widths = round_widths({layer: int((kept == layer).sum()) for layer in scores}, available, multiple_of)
    if not any(widths.values()):
        raise EffirError(f"prune.width = {keep} keeps no channel: raise it, or lower prune.multiple_of")
    order = {layer: torch.sort(score, descending=True, stable=True).indices for layer, score in scores.items()}
    return {layer: sorted(order[layer][:width].tolist()) for layer, width in widths.items()}


def round_widths(wanted: Mapping[int, int], available: Mapping[int, int], multiple_of: int) -> dict[int, int]:
    """Round each width to a multiple of at most ``available``; the total changes by less than one step.

    >>> round_widths({0: 20, 1: 28}, {0: 64, 1: 64}, multiple_of=16)
    {0: 16, 1: 32}
    """
    widths = {layer: width - width % multiple_of for layer, width in wanted.items()}
    steps = round((sum(wanted.values()) - sum(widths.values())) / multiple_of)
    able = [layer for layer in wanted if widths[layer] + multiple_of <= available[layer]]
    nearest = sorted(able, key=lambda layer: (widths[layer] - wanted[layer], layer))
    return widths | {layer: widths[layer] + multiple_of for layer in nearest[:steps]}


def describe_scores(scores: ChannelScores, channels: Mapping[int, Sequence[int]]) -> dict[str, Any]:
    """Summarise channel scores for a plot: a histogram of all, quantiles by layer, and the lowest score kept."""
    everything = torch.cat([score.double().cpu() for score in scores.values()])
    counts, edges = torch.histogram(everything, bins=40)
    quartiles = torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=torch.float64)
    return {
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "threshold": min(float(scores[layer][list(kept)].min()) for layer, kept in channels.items() if kept),
        "mean": float(everything.mean()),
        "std": float(everything.std()),
        "quartiles": {layer: torch.quantile(s.double().cpu(), quartiles).tolist() for layer, s in scores.items()},
    }
