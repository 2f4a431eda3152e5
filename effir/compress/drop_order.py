"""Choose: the order in which sublayers are dropped. How deep a cut goes is how much of the order is taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from effir.errors import EffirError
from effir.model.shape import ModelShape, Sublayer

Droppable = Literal["mlp", "attention", "block", "attention_or_mlp"]
KINDS: Mapping[Droppable, tuple[Sublayer, ...]] = {
    "mlp": ("mlp",),
    "attention": ("attention",),
    "block": ("block",),
    "attention_or_mlp": ("attention", "mlp"),
}
"""What ``analyze.sublayer`` names; with ``attention_or_mlp`` attentions and MLPs stand in one ranking."""


@dataclass(frozen=True)
class Drop:
    """A sublayer to drop; ``change`` is what its criterion measured, a mean ``1 - cos``."""

    sublayer: Sublayer
    layer: int
    change: float


def parameters_saved(shape: ModelShape, sublayer: Sublayer) -> int:
    """Return the parameters that a sublayer of an uncut layer holds, norms included."""
    mlp = shape.cost.mlp_fixed + max(shape.mlp_widths) * shape.cost.channel
    return {"attention": shape.cost.attention, "mlp": mlp, "block": shape.cost.attention + mlp}[sublayer]


def order_by_score(
    scores: Mapping[Sublayer, Sequence[float]], shape: ModelShape, kinds: Sequence[Sublayer]
) -> list[Drop]:
    """Order all sublayers of some kinds by their score by layer, the lowest first; of equals the lower layer.

    Several kinds are compared by the score a parameter saved.
    """
    weight = {kind: parameters_saved(shape, kind) if len(kinds) > 1 else 1 for kind in kinds}
    found = [Drop(kind, layer, scores[kind][layer]) for kind in kinds for layer in shape.having(kind)]
    return sorted(found, key=lambda drop: (drop.change / weight[drop.sublayer], drop.layer))


def first(order: Sequence[Drop], count: int) -> list[Drop]:
    """Take the first ``count``; EffirError where the order has fewer.

    >>> first([Drop("mlp", 3, 0.1), Drop("mlp", 1, 0.2)], count=1)
    [Drop(sublayer='mlp', layer=3, change=0.1)]
    """
    if not 0 <= count <= len(order):
        raise EffirError(
            f"prune.depth is {count}, but {len(order)} sublayers are ordered: choose 0 to {len(order)}, or raise "
            "analyze.drop_share where analyze.criterion is greedy"
        )
    return list(order[:count])


def without(shape: ModelShape, drops: Sequence[Drop]) -> ModelShape:
    """Drop several sublayers from a shape."""
    for kind in dict.fromkeys(drop.sublayer for drop in drops):
        shape = shape.without(kind, [drop.layer for drop in drops if drop.sublayer == kind])
    return shape
