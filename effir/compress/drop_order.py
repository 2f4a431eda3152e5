"""Choose: the order in which sublayers are dropped. The depth of a cut is the number of drops taken from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from effir.errors import EffirError
from effir.model.shape import ModelShape, Sublayer

Droppable = Literal["mlp", "attention", "block", "attention_or_mlp"]
Kinds = Sequence[Sublayer]
KINDS: Mapping[Droppable, Kinds] = {
    "mlp": ("mlp",),
    "attention": ("attention",),
    "block": ("block",),
    "attention_or_mlp": ("attention", "mlp"),
}
"""The kinds of sublayers in one ranking, by the value of ``analyze.sublayer``."""


@dataclass(frozen=True)
class Drop:
    """A sublayer to drop; ``change`` is the value of its criterion, a mean ``1 - cos``."""

    sublayer: Sublayer
    layer: int
    change: float


def parameters_saved(shape: ModelShape, sublayer: Sublayer) -> int:
    """Return the number of parameters of a sublayer of an uncut layer, norms included."""
    mlp = shape.cost.mlp_fixed + max(shape.mlp_widths) * shape.cost.channel
    return {"attention": shape.cost.attention, "mlp": mlp, "block": shape.cost.attention + mlp}[sublayer]


def order_by_score(scores: Mapping[Sublayer, Sequence[float]], shape: ModelShape, kinds: Kinds) -> list[Drop]:
    """Order the sublayers of some kinds by their score, the lowest first; ties go to the lower layer.

    Several kinds are compared by score per parameter saved.
    """
    weight = {kind: parameters_saved(shape, kind) if len(kinds) > 1 else 1 for kind in kinds}
    drops = [Drop(kind, layer, scores[kind][layer]) for kind in kinds for layer in shape.having(kind)]
    return sorted(drops, key=lambda drop: (drop.change / weight[drop.sublayer], drop.layer))


def first_drops(order: Sequence[Drop], depth: int) -> list[Drop]:
    """Take the first ``depth`` drops; EffirError where the order has fewer.

    >>> first_drops([Drop("mlp", 3, 0.1), Drop("mlp", 1, 0.2)], depth=1)
    [Drop(sublayer='mlp', layer=3, change=0.1)]
    """
    if not 0 <= depth <= len(order):
        fix = f"choose 0 to {len(order)}, or raise analyze.drop_share if analyze.criterion is greedy"
        raise EffirError(f"prune.depth is {depth}, but {len(order)} sublayers are ordered: {fix}")
    return list(order[:depth])


def shape_after(shape: ModelShape, drops: Sequence[Drop]) -> ModelShape:
    """Return the shape without the dropped sublayers."""
    for kind in dict.fromkeys(drop.sublayer for drop in drops):
        shape = shape.without(kind, [drop.layer for drop in drops if drop.sublayer == kind])
    return shape
