"""Measure, finer: a score for every MLP channel, and one ranking over all of them (EffiR, sec. 3.2)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import relu

from effir.errors import EffirError
from effir.files import writing

ChannelScores = dict[int, Tensor]
"""Layer to the scores of its MLP's channels, shape (width,); higher stays."""


def save_scores(scores: ChannelScores, method: str, into: Path) -> None:
    """Write scores, and the method that made them, as one safetensors file."""
    with writing(into) as draft:
        save_file({str(layer): score.contiguous() for layer, score in scores.items()}, draft, {"method": method})


def load_scores(path: Path) -> tuple[ChannelScores, str]:
    """Read what :func:`save_scores` wrote: the scores, layers ascending, and their method."""
    with safe_open(path, framework="pt") as file:
        scores = {layer: file.get_tensor(str(layer)) for layer in sorted(map(int, file.keys()))}
        return scores, file.metadata()["method"]


def down_projections(model: nn.Module) -> dict[int, nn.Linear]:
    """Layer to ``down_proj`` of every MLP that is left: its input is exactly the channel vector."""
    layers = getattr(model, "layers")  # noqa: B009  every supported family names its blocks so
    return {i: layer.mlp.down_proj for i, layer in enumerate(layers) if hasattr(layer.mlp, "down_proj")}


@contextmanager
def gating(model: nn.Module) -> Iterator[dict[int, nn.Parameter]]:
    """Put a gate z, initialised to 1, on every MLP channel; only gates train inside the block.

    The channel vector (batch, tokens, width) is multiplied by ReLU(z) before ``down_proj``. Gates are parameters of
    the ``down_proj`` modules, so that optimisers and checkpoints find them; leaving the block removes them.
    """
    frozen = {name: p.requires_grad for name, p in model.named_parameters()}
    model.requires_grad_(False)
    projections = down_projections(model)
    hooks = []
    for projection in projections.values():
        ones = torch.ones(projection.in_features, device=projection.weight.device)
        projection.register_parameter("channel_gate", nn.Parameter(ones))
        hooks.append(projection.register_forward_pre_hook(_gate))
    try:
        yield {layer: projection.channel_gate for layer, projection in projections.items()}  # type: ignore[misc]
    finally:
        for hook in hooks:
            hook.remove()
        for projection in projections.values():
            del projection.channel_gate
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(frozen[name])


def relaxed_l0(gates: Iterable[Tensor], sharpness: float) -> Tensor:
    """Count open channels, relaxed: sum of sigmoid(sharpness · z) over all gates (EffiR, sec. 3.2)."""
    return torch.stack([torch.sigmoid(sharpness * gate).sum() for gate in gates]).sum()


class SlimmingLoss(nn.Module):
    """A ranking loss plus ``weight`` times the gates' relaxed L0 norm."""

    def __init__(self, ranking: nn.Module, gates: Sequence[Tensor], weight: float, sharpness: float) -> None:
        super().__init__()
        self.ranking = ranking
        self._gates = list(gates)
        self.weight = weight
        self.sharpness = sharpness

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None) -> Tensor:
        """Return the scalar loss of one batch of tokenised columns (query, positive, negatives)."""
        loss: Tensor = self.ranking(sentence_features, labels)
        return loss + self.weight * relaxed_l0(self._gates, self.sharpness)


def opened(gates: Mapping[int, Tensor]) -> ChannelScores:
    """Gates as scores, on the CPU: z itself, which orders closed channels (z <= 0) below open ones."""
    return {layer: gate.detach().cpu().clone() for layer, gate in gates.items()}


def factors(scores: ChannelScores) -> dict[int, Tensor]:
    """Return what trained gates multiply their channels by: ReLU(z), shape (width,) a layer."""
    return {layer: relu(score) for layer, score in scores.items()}


def taylor_scores(gates: Mapping[int, nn.Parameter], losses: Iterable[Tensor]) -> ChannelScores:
    """Sum over batches of |dLoss/dz| at z = 1: the first-order change of the loss when a channel is removed.

    (Molchanov et al., 2019, "Importance Estimation for Neural Network Pruning".) Scores are on the CPU.
    """
    scores = {layer: torch.zeros_like(gate) for layer, gate in gates.items()}
    for loss in losses:
        gradients = torch.autograd.grad(loss, list(gates.values()))
        for layer, gradient in zip(gates, gradients, strict=True):
            scores[layer] += gradient.abs()
    return {layer: score.cpu() for layer, score in scores.items()}


@torch.inference_mode()
def magnitude_scores(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> ChannelScores:
    """Norm of a channel's ``down_proj`` column times the root mean square of its activation, padding excluded.

    (Sun et al., 2024, "Wanda", a whole channel at a time.) ``batches`` hold ``input_ids`` and ``attention_mask``.
    """
    projections = down_projections(model)
    squares = {layer: torch.zeros(p.in_features, dtype=torch.float64) for layer, p in projections.items()}
    real = torch.zeros(())

    def add(layer: int, channels: Tensor) -> None:
        squares[layer] += (channels * real.unsqueeze(-1)).double().pow(2).sum(dim=(0, 1)).cpu()

    hooks = [
        projection.register_forward_pre_hook(lambda _, args, layer=layer: add(layer, args[0]))
        for layer, projection in projections.items()
    ]
    tokens = 0
    try:
        for batch in batches:
            real = batch["attention_mask"].float()
            tokens += int(real.sum())
            model(**batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        layer: (projection.weight.double().norm(dim=0).cpu() * (squares[layer] / max(tokens, 1)).sqrt()).float()
        for layer, projection in projections.items()
    }


def random_scores(model: nn.Module, seed: int) -> ChannelScores:
    """Draw scores from [0, 1): what any other method must beat."""
    generator = torch.Generator().manual_seed(seed)
    return {layer: torch.rand(p.in_features, generator=generator) for layer, p in down_projections(model).items()}


def choose_channels(scores: ChannelScores, keep: float, multiple_of: int) -> dict[int, list[int]]:
    """Rank all channels of all layers together and keep the share ``keep``; layer to its kept channels, ascending.

    Widths are rounded to ``multiple_of`` by largest remainder, so that the total kept is within one rounding step.
    Equal scores are kept in the order of layers and channels.

    >>> choose_channels({0: torch.tensor([0.9, 0.1]), 2: torch.tensor([0.8, 0.7])}, keep=0.5, multiple_of=1)
    {0: [0], 2: [0]}
    """
    if keep == 1:
        return {layer: list(range(len(score))) for layer, score in scores.items()}
    widths = round_widths(
        _ranked_widths(scores, keep), {layer: len(score) for layer, score in scores.items()}, multiple_of
    )
    if not any(widths.values()):
        raise EffirError(f"prune.width = {keep} keeps no channel at all: raise it, or lower prune.multiple_of")
    order = {layer: torch.sort(score, descending=True, stable=True).indices for layer, score in scores.items()}
    return {layer: sorted(order[layer][:width].tolist()) for layer, width in widths.items()}


def describe_scores(scores: ChannelScores, channels: Mapping[int, Sequence[int]]) -> dict[str, Any]:
    """Summarise channel scores for a plot: a histogram of all, quantiles by layer, and the lowest score kept."""
    everything = torch.cat([score.double().cpu() for score in scores.values()])
    counts, edges = torch.histogram(everything, bins=40)
    kept = [float(scores[layer][list(chosen)].min()) for layer, chosen in channels.items() if chosen]
    quartiles = torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=torch.float64)
    return {
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "threshold": min(kept),
        "mean": float(everything.mean()),
        "std": float(everything.std()),
        "quartiles": {layer: torch.quantile(s.double().cpu(), quartiles).tolist() for layer, s in scores.items()},
    }


def round_widths(wanted: Mapping[int, int], available: Mapping[int, int], multiple_of: int) -> dict[int, int]:
    """Round each width to a multiple, none above what is available, the total within one step of the wanted one.

    >>> round_widths({0: 20, 1: 28}, {0: 64, 1: 64}, multiple_of=16)
    {0: 16, 1: 32}
    """
    widths = {layer: width - width % multiple_of for layer, width in wanted.items()}
    steps = round((sum(wanted.values()) - sum(widths.values())) / multiple_of)
    able = [layer for layer in wanted if widths[layer] + multiple_of <= available[layer]]
    nearest = sorted(able, key=lambda layer: (widths[layer] - wanted[layer], layer))
    return widths | {layer: widths[layer] + multiple_of for layer in nearest[:steps]}


def _ranked_widths(scores: ChannelScores, keep: float) -> dict[int, int]:
    layer_of = torch.cat([torch.full((len(score),), layer) for layer, score in scores.items()])
    ranking = torch.sort(torch.cat([s.float() for s in scores.values()]), descending=True, stable=True).indices
    kept = layer_of[ranking[: round(keep * len(ranking))]]
    return {layer: int((kept == layer).sum()) for layer in scores}


def _gate(projection: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    gate = projection.channel_gate
    assert isinstance(gate, Tensor)
    return (args[0] * relu(gate).to(args[0].dtype), *args[1:])
