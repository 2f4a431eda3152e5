"""Gates are exact, only they train, and leaving the block removes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from effir.compress.channel_scores import taylor_scores
from effir.compress.channels import choose_channels
from effir.compress.cut import cut_checkpoint
from effir.compress.gates import SlimmingLoss, down_projections, gate_scores, gating, relaxed_l0
from effir.model.shape import shape_of

WIDTH, LAYERS = 48, 4  # of the tiny models


@torch.no_grad()
def states(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Hidden states of the real tokens, (tokens, hidden)."""
    found: Tensor = model(**batch).last_hidden_state[batch["attention_mask"].bool()]
    return found


def projected(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """A loss that every channel has a say in: the hidden states along fixed random directions."""
    hidden = model(**batch).last_hidden_state
    directions = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(5))
    loss: Tensor = (hidden * directions).sum()
    return loss


def test_gates_at_one_change_nothing(model: Any, batch: dict[str, Tensor]) -> None:
    before = states(model, batch)
    with gating(model) as gates:
        assert [len(gate) for gate in gates.values()] == [WIDTH] * LAYERS
        assert torch.equal(states(model, batch), before)


def test_gates_are_where_their_projections_are_and_scores_leave_that_device(model: Any) -> None:
    with gating(model.to("meta")) as gates:  # a device that every machine has
        assert {gate.device.type for gate in gates.values()} == {"meta"}
        hidden = torch.zeros(1, 2, model.config.hidden_size, device="meta")
        loss = torch.stack([layer.mlp(hidden).sum() for layer in model.layers]).sum()
        # What is on it holds no numbers: that it is asked for them is seen by the refusal.
        for scores in (lambda: gate_scores(gates), lambda: taylor_scores(gates, [loss])):
            with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
                scores()


def test_a_gate_at_zero_or_below_is_a_zeroed_column(model: Any, batch: dict[str, Tensor]) -> None:
    with gating(model) as gates, torch.no_grad():
        gates[1][3] = 0
        gates[2][5] = -2.5
        gates[0][7] = 0.5
        gated = states(model, batch)
    whole = states(model, batch)
    with torch.no_grad():
        model.layers[1].mlp.down_proj.weight[:, 3] = 0
        model.layers[2].mlp.down_proj.weight[:, 5] = 0
        model.layers[0].mlp.down_proj.weight[:, 7] /= 2
    torch.testing.assert_close(gated, states(model, batch), atol=1e-6, rtol=1e-6)
    assert (gated - whole).abs().max() > 1e-3


def fingerprint(model: Any) -> tuple[list[tuple[str, bool]], int, int]:
    hooks = sum(len(module._forward_pre_hooks) for module in model.modules())
    return [(name, p.requires_grad) for name, p in model.named_parameters()], hooks, len(list(model.buffers()))


@pytest.mark.parametrize("fails", [False, True])
def test_only_gates_train_and_leaving_undoes_everything_even_after_an_exception(
    model: Any, batch: dict[str, Tensor], fails: bool
) -> None:
    model.layers[2].mlp.up_proj.weight.requires_grad_(False)
    before, tensors = fingerprint(model), {k: v.clone() for k, v in model.state_dict().items()}

    def visit() -> None:
        with gating(model) as gates:
            projected(model, batch).backward()
            assert {name for name, p in model.named_parameters() if p.grad is not None} == {
                f"layers.{layer}.mlp.down_proj.channel_gate" for layer in range(LAYERS)
            }
            assert all(gate.grad is not None and gate.grad.abs().sum() > 0 for gate in gates.values())
            if fails:
                raise KeyError("in the middle")

    if fails:
        with pytest.raises(KeyError):
            visit()
    else:
        visit()
    assert fingerprint(model) == before
    assert all(torch.equal(v, tensors[k]) for k, v in model.state_dict().items())


def test_dropped_mlps_have_no_gates(whole_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    whole = whole_checkpoint("llama")
    cut_checkpoint(whole, tmp_path / "cut", shape_of(whole).without("mlp", [1]))
    cut = AutoModel.from_pretrained(tmp_path / "cut")
    assert list(down_projections(cut)) == [0, 2, 3]


def test_the_relaxed_l0_norm_counts_open_gates() -> None:
    # sigmoid(5 * 0) = 1/2; sigmoid(5 * ±0.2) = sigmoid(±1), and sigmoid(1) + sigmoid(-1) = 1;
    # sigmoid(5 * 20) = 1 and sigmoid(5 * -20) = 0 to float precision. 0.5 + 1 + 1 + 0.
    gates = [torch.tensor([0.0, 0.2, -0.2]), torch.tensor([20.0, -20.0])]
    assert relaxed_l0(gates, sharpness=5).item() == pytest.approx(2.5, abs=1e-6)


def test_the_penalty_pushes_gates_down_by_lambda_times_the_sigmoids_slope() -> None:
    class Ranking(torch.nn.Module):
        def forward(self, features: Any, labels: Any) -> Tensor:
            return torch.tensor(3.0)

    gate = torch.nn.Parameter(torch.tensor([0.0, 0.2]))
    loss = SlimmingLoss(Ranking(), [gate], weight=0.1, sharpness=5)([], None)
    # 3 + 0.1 * (1/2 + sigmoid(1) = 0.731059); the slope is 0.1 * 5 * s * (1 - s): 0.125 and 0.5 * 0.196612.
    assert loss.item() == pytest.approx(3.1231059, abs=1e-6)
    loss.backward()
    assert gate.grad is not None
    assert gate.grad.tolist() == pytest.approx([0.125, 0.098306], abs=1e-6)


def test_slicing_the_chosen_channels_is_the_model_with_binary_gates(
    whole_checkpoint: Callable[[str], Path], batch: dict[str, Tensor], tmp_path: Path, family: str
) -> None:
    whole = whole_checkpoint(family)
    model = AutoModel.from_pretrained(whole).eval()
    generator = torch.Generator().manual_seed(2)
    scores = {layer: torch.rand(WIDTH, generator=generator) + layer / 8 for layer in range(LAYERS)}
    channels = choose_channels(scores, keep=0.4, multiple_of=4)
    widths = [len(channels[layer]) for layer in range(LAYERS)]
    cut_checkpoint(whole, tmp_path / "cut", shape_of(whole).with_mlp_widths(widths), channels)
    cut = AutoModel.from_pretrained(tmp_path / "cut").eval()
    before = states(model, batch)
    with gating(model) as gates, torch.no_grad():
        for layer, gate in gates.items():
            gate.zero_()
            gate[channels[layer]] = 1
        binary = states(model, batch)
    torch.testing.assert_close(states(cut, batch), binary, atol=1e-5, rtol=0)
    assert (binary - before).abs().max() > 1e-2
    # Layers end with different widths; none with 0, which would drop the bias of a Llama's down_proj too.
    assert len(set(widths)) > 1
    assert min(widths) > 0
