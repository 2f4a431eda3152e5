"""The order of drops: lowest first, ties by layer, several kinds by score per parameter saved."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from effir.compress.drop_order import Drop, first_drops, order_by_score, parameters_saved, shape_after
from effir.errors import EffirError
from effir.model.shape import ModelShape, shape_of


@pytest.fixture
def shape(whole_checkpoint: Callable[[str], Path]) -> ModelShape:
    return shape_of(whole_checkpoint("llama"))  # four layers


def test_the_lowest_comes_first_and_of_equals_the_lower_layer(shape: ModelShape) -> None:
    order = order_by_score({"mlp": [0.2, 0.1, 0.2, 0.05], "attention": [], "block": []}, shape, ["mlp"])
    assert [drop.layer for drop in order] == [3, 1, 0, 2]
    assert order[0] == Drop("mlp", 3, 0.05)


def test_dropped_sublayers_are_not_ordered(shape: ModelShape) -> None:
    order = order_by_score({"mlp": [0.2, 0.1, 0.3, 0.05]}, shape.without("mlp", [3]), ["mlp"])
    assert [drop.layer for drop in order] == [1, 0, 2]


def test_several_kinds_are_ordered_by_score_per_parameter(shape: ModelShape) -> None:
    attention, mlp = (parameters_saved(shape, kind) for kind in ("attention", "mlp"))  # type: ignore[arg-type]
    assert mlp == shape.parameters() - shape.without("mlp", [0]).parameters()
    assert attention == shape.parameters() - shape.without("attention", [0]).parameters()
    assert parameters_saved(shape, "block") == attention + mlp
    # The score per parameter is 1 for attentions, and 2, 3, 4 and 0.5 for MLPs.
    scores = {"attention": [attention] * 4, "mlp": [2 * mlp, 3 * mlp, 4 * mlp, 0.5 * mlp]}
    order = order_by_score(scores, shape, ["attention", "mlp"])  # type: ignore[arg-type]
    assert [(drop.sublayer, drop.layer) for drop in order] == [
        ("mlp", 3),
        *(("attention", layer) for layer in range(4)),
        ("mlp", 0),
        ("mlp", 1),
        ("mlp", 2),
    ]


def test_the_shape_after_drops_lacks_those_of_each_kind(shape: ModelShape) -> None:
    cut = shape_after(shape, [Drop("mlp", 2, 0.1), Drop("attention", 1, 0.2), Drop("mlp", 0, 0.3)])
    assert cut.mlp_widths == tuple(0 if layer in (0, 2) else shape.mlp_widths[layer] for layer in range(4))
    assert cut.attention_kept == (True, False, True, True)
    assert shape_after(shape, []) == replace(shape)


@pytest.mark.parametrize("depth", [-1, 3])
def test_a_depth_beyond_the_order_is_one_sentence(depth: int) -> None:
    order = [Drop("mlp", 1, 0.1), Drop("mlp", 0, 0.2)]
    with pytest.raises(EffirError, match=f"prune.depth is {depth}, but 2 sublayers are ordered: choose 0 to 2"):
        first_drops(order, depth)
