"""Choose: the order in which sublayers are dropped. The depth of a cut is the number of drops taken from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

from effir.errors import EffirError
from effir.model.shape import ModelShape, Sublayer

Droppable = Literal["mlp", "attention", "block", "attention_or_mlp"]
Kinds = Sequence[Sublayer]
Candidate = tuple[Sublayer, int]
"""A kind of sublayer and a layer."""
KINDS: Mapping[Droppable, Kinds] = {
    "mlp": ("mlp",),
    "attention": ("attention",),
    "block": ("block",),
    "attention_or_mlp": ("attention", "mlp"),
}
"""The kinds of sublayers in one ranking, by the value of ``analyze.sublayer``."""

AGAIN = 0.2, 6
"""Candidates that ``greedy`` measures again after a drop: their share, and their least number."""


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


def likeliest(rises: Mapping[Candidate, float]) -> list[Candidate]:
    """Choose the candidates to measure again: those whose rise was least when it was last measured, by layer.

    The next to drop is nearly always among them, although rises change (docs/decisions/0010-drop-order.md).

    >>> likeliest({("mlp", layer): -layer for layer in range(31)})
    [('mlp', 24), ('mlp', 25), ('mlp', 26), ('mlp', 27), ('mlp', 28), ('mlp', 29), ('mlp', 30)]
    """
    share, least = AGAIN
    chosen = sorted(rises, key=lambda each: (rises[each], each[1]))[: max(least, ceil(share * len(rises)))]
    return sorted(chosen, key=lambda each: each[1])  # the longest to compute first, so that no core waits at the end


def without_dropped(rises: Mapping[Candidate, float], dropped: Candidate) -> dict[Candidate, float]:
    """Leave out a dropped candidate and those that it contains, or that contain it.

    >>> without_dropped({("mlp", 0): 0.1, ("block", 0): 0.2, ("attention", 0): 0.3, ("mlp", 1): 0.4}, ("mlp", 0))
    {('attention', 0): 0.3, ('mlp', 1): 0.4}
    """
    kind, layer = dropped
    return {(k, i): rise for (k, i), rise in rises.items() if i != layer or (k != kind and "block" not in (k, kind))}


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
