"""Each change is that of a really cut model, the greedy order takes the least, and the model does not change.

The greedy order measures a tiny model's few sublayers all again; a deeper one shows that it measures six.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from effir.compress.cut import cut_checkpoint
from effir.compress.drop_order import parameters_saved
from effir.compress.leave_out import greedy_order, leave_one_out
from effir.cpu.prepacked_linear import prepack
from effir.errors import EffirError
from effir.model.checkpoint import load_model
from effir.model.modeling import cut_layer
from effir.model.shape import ModelShape, Sublayer, shape_of
from tests.compress.conftest import tiny_model

Batch = dict[str, torch.Tensor]


def final_states(folder: Path, batch: Batch) -> torch.Tensor:
    with torch.inference_mode():
        states = load_model(folder)[0](**batch).last_hidden_state
    return states[batch["attention_mask"].bool()]


def change_of(whole: Path, shape: ModelShape, batch: Batch, into: Path) -> float:
    """Mean 1 - cos between the final states of a checkpoint cut to ``shape`` and of the uncompressed one."""
    cut_checkpoint(whole, into, shape)
    one, other = final_states(whole, batch), final_states(into, batch)
    return float((1 - torch.cosine_similarity(one.double(), other.double(), dim=-1)).mean())


@pytest.mark.parametrize("kind", ["mlp", "attention", "block"])
def test_every_step_drops_what_changes_the_really_cut_model_least(
    whole: Path, batch: Batch, kind: Sublayer, tmp_path: Path
) -> None:
    shape = shape_of(whole)
    found = greedy_order(load_model(whole)[0], shape, [batch], [kind], count=2)
    for drop in found:
        changes = {
            layer: change_of(whole, shape.without(kind, [layer]), batch, tmp_path / f"{len(list(tmp_path.iterdir()))}")
            for layer in shape.having(kind)
        }
        assert drop.change == pytest.approx(changes[drop.layer], abs=1e-5)
        assert drop.change <= min(changes.values()) + 1e-5
        shape = shape.without(kind, [drop.layer])


def test_several_kinds_are_compared_by_change_per_parameter_saved(
    whole_checkpoint: Callable[[str], Path], batch: Batch, tmp_path: Path
) -> None:
    whole = whole_checkpoint("llama")
    shape, change = shape_of(whole), 0.0
    for number, drop in enumerate(greedy_order(load_model(whole)[0], shape, [batch], ["attention", "mlp"], count=3)):
        rises: dict[tuple[str, int], float] = {}
        kinds: list[Sublayer] = ["attention", "mlp"]
        for kind in kinds:
            for layer in shape.having(kind):
                cut = shape.without(kind, [layer])
                gone = shape.parameters() - cut.parameters()
                assert gone == parameters_saved(shape, kind)
                place = tmp_path / f"{number}-{kind}-{layer}"
                rises[kind, layer] = (change_of(whole, cut, batch, place) - change) / gone
        assert rises[drop.sublayer, drop.layer] <= min(rises.values()) + 1e-8
        shape, change = shape.without(drop.sublayer, [drop.layer]), drop.change


def test_leave_one_out_is_the_first_step_of_greedy(
    whole_checkpoint: Callable[[str], Path], batch: Batch, tmp_path: Path
) -> None:
    whole = whole_checkpoint("qwen3")
    model, shape = load_model(whole)[0], shape_of(whole)
    scores = leave_one_out(model, shape, [batch], ["mlp", "block"])
    expected = [change_of(whole, shape.without("mlp", [layer]), batch, tmp_path / str(layer)) for layer in range(4)]
    assert scores["mlp"] == pytest.approx(expected, abs=1e-5)
    (drop,) = greedy_order(model, shape, [batch], ["block"], count=1)
    assert scores["block"][drop.layer] == drop.change == min(scores["block"])


def test_the_model_computes_afterwards_what_it_did_before(
    whole_checkpoint: Callable[[str], Path], batch: Batch
) -> None:
    whole = whole_checkpoint("gemma2")
    model = load_model(whole)[0]
    with torch.inference_mode():
        before = model(**batch).last_hidden_state
        greedy_order(model, shape_of(whole), [batch], ["block"], count=2)
        assert torch.equal(model(**batch).last_hidden_state, before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("kinds", [["attention", "mlp"], ["block"]])
def test_two_threads_find_the_changes_of_one_and_leave_the_layers_alone(
    whole: Path, batch: Batch, kinds: list[Sublayer]
) -> None:
    model, shape = load_model(whole)[0], shape_of(whole)
    modules = list(model.named_modules())
    batches = [batch, {key: value[:2] for key, value in batch.items()}]
    scores, again = (leave_one_out(model, shape, batches, kinds) for _ in "ab")
    order = greedy_order(model, shape, batches, kinds, count=3)
    assert scores == again
    assert list(model.named_modules()) == modules
    torch.set_num_threads(1)
    alone = leave_one_out(model, shape, batches, kinds)
    assert all(scores[kind] == pytest.approx(alone[kind], abs=1e-6) for kind in kinds)
    for one, other in zip(order, greedy_order(model, shape, batches, kinds, count=3), strict=True):
        assert (one.sublayer, one.layer, one.change) == (other.sublayer, other.layer, pytest.approx(other.change))


def change_in_memory(model: Any, batch: Batch, dropped: list[int]) -> float:
    """Mean 1 - cos between the final states of a copy without some layers and of the model, by whole forwards."""
    cut = copy.deepcopy(model)
    for layer in dropped:
        cut_layer(cut.layers[layer], cut.config, 0, attention_kept=False)
    real = batch["attention_mask"].bool()
    with torch.inference_mode():
        one, other = (each(**batch, use_cache=False).last_hidden_state[real].double() for each in (model, cut))
    return float((1 - torch.cosine_similarity(one, other, dim=-1)).mean())


def test_after_a_drop_greedy_measures_the_six_that_were_lowest(batch: Batch, tmp_path: Path) -> None:
    tiny_model("llama", num_hidden_layers=12).save_pretrained(tmp_path)
    model, measured = AutoModel.from_pretrained(tmp_path).eval(), list[None]()
    model.norm.register_forward_hook(lambda *_: measured.append(None))
    order = greedy_order(model, shape_of(tmp_path), [batch], ["block"], count=3)
    # Two norms of the uncut model, its own and that of the trace; then one for each candidate.
    assert len(measured) == 2 + 12 + 6 + 6
    rises, dropped, change = dict.fromkeys(range(12), 0.0), list[int](), 0.0
    for drop in order:
        lowest = sorted(rises, key=lambda layer: rises[layer])[: 6 if dropped else 12]
        changes = {layer: change_in_memory(model, batch, [*dropped, layer]) for layer in lowest}
        rises |= {layer: found - change for layer, found in changes.items()}
        assert drop.layer == min(changes, key=lambda layer: changes[layer])
        assert drop.change == pytest.approx(changes[drop.layer], abs=1e-5)
        change = changes[drop.layer]
        dropped.append(drop.layer)
        del rises[drop.layer]


def test_prepacked_layers_give_the_same_order(whole_checkpoint: Callable[[str], Path], batch: Batch) -> None:
    whole = whole_checkpoint("llama")
    plain, packed = (load_model(whole)[0] for _ in "ab")
    prepack(packed, torch.float32)
    one, other = (greedy_order(model, shape_of(whole), [batch], ["mlp"], count=3) for model in (plain, packed))
    assert [drop.layer for drop in one] == [drop.layer for drop in other]


def test_the_order_of_a_cut_model_continues_that_of_the_uncompressed_one(
    whole_checkpoint: Callable[[str], Path], batch: Batch, tmp_path: Path
) -> None:
    whole = whole_checkpoint("llama")
    shape = shape_of(whole)
    first, second = greedy_order(load_model(whole)[0], shape, [batch], ["mlp"], count=2)
    cut_checkpoint(whole, tmp_path / "cut", shape.without("mlp", [first.layer]))
    (found,) = greedy_order(load_model(tmp_path / "cut")[0], shape_of(tmp_path / "cut"), [batch], ["mlp"], count=1)
    # The choice is the same; its change is relative to the cut model, the second's to the uncompressed one.
    assert found.layer == second.layer
    expected = change_of(
        tmp_path / "cut", shape_of(tmp_path / "cut").without("mlp", [found.layer]), batch, tmp_path / "2"
    )
    assert found.change == pytest.approx(expected, abs=1e-5)


def test_more_drops_than_sublayers_are_refused(whole_checkpoint: Callable[[str], Path], batch: Batch) -> None:
    whole = whole_checkpoint("llama")
    with pytest.raises(EffirError, match="5 sublayers are to be dropped, but the model has 4: drop fewer"):
        greedy_order(load_model(whole)[0], shape_of(whole), [batch], ["mlp"], count=5)
