"""Gates on MLP channels: the factor that slimming trains and Taylor scores differentiate (EffiR, sec. 3.2)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import relu


def down_projections(model: nn.Module) -> dict[int, nn.Linear]:
    """Map each layer that has an MLP to its ``down_proj``, whose input is the channel vector."""
    layers = getattr(model, "layers")  # noqa: B009  every supported family has this attribute
    return {i: layer.mlp.down_proj for i, layer in enumerate(layers) if hasattr(layer.mlp, "down_proj")}


@contextmanager
def gating(model: nn.Module) -> Iterator[dict[int, nn.Parameter]]:
    """Put a gate z, initialised to 1, on every MLP channel; inside the block only gates train.

    The channel vector (batch, tokens, width) is multiplied by ReLU(z) before ``down_proj``. The gates are parameters of
    the ``down_proj`` modules, so that optimisers and checkpoints find them. They are removed when the block ends.
    """
    projections, trained = down_projections(model), [(p, p.requires_grad) for p in model.parameters()]
    with ExitStack() as undo:
        for parameter, requires_grad in trained:
            undo.callback(parameter.requires_grad_, requires_grad)
        model.requires_grad_(False)
        for projection in projections.values():
            ones = torch.ones(projection.in_features, device=projection.weight.device)
            projection.register_parameter("channel_gate", nn.Parameter(ones))
            undo.callback(delattr, projection, "channel_gate")
            undo.enter_context(projection.register_forward_pre_hook(_apply_gate))
        yield {layer: projection.channel_gate for layer, projection in projections.items()}  # type: ignore[misc]


def _apply_gate(projection: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    gate = projection.channel_gate
    assert isinstance(gate, Tensor)
    return (args[0] * relu(gate).to(args[0].dtype), *args[1:])


def relaxed_l0(gates: Iterable[Tensor], sharpness: float) -> Tensor:
    """Count the open gates, relaxed: the sum of sigmoid(sharpness · z) over all gates (EffiR, sec. 3.2)."""
    return torch.stack([torch.sigmoid(sharpness * gate).sum() for gate in gates]).sum()


class SlimmingLoss(nn.Module):
    """A ranking loss plus ``weight`` times the relaxed L0 norm of the gates."""

    def __init__(self, ranking: nn.Module, gates: Sequence[Tensor], weight: float, sharpness: float) -> None:
        super().__init__()
        self.ranking = ranking
        self._gates = list(gates)
        self.weight, self.sharpness = weight, sharpness

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None) -> Tensor:
        """Return the scalar loss of one batch of tokenised columns (query, positive, negatives)."""
        loss: Tensor = self.ranking(sentence_features, labels)
        return loss + self.weight * relaxed_l0(self._gates, self.sharpness)


def gate_scores(gates: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Return z of every gate on the CPU, as a channel score: closed channels (z <= 0) rank below open ones."""
    return {layer: gate.detach().cpu().clone() for layer, gate in gates.items()}


def gate_factors(scores: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Return what trained gates multiply their channels by: ReLU(z), shape (width,) per layer."""
    return {layer: relu(score) for layer, score in scores.items()}
