"""Gates are exact, undone, and ranked together; four methods score them through one interface."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers import AutoModel

from effir.compress.channel_scores import (
    SlimmingLoss,
    choose_channels,
    describe_scores,
    down_projections,
    gating,
    magnitude_scores,
    opened,
    relaxed_l0,
    round_widths,
    taylor_scores,
)
from effir.compress.cut import cut_checkpoint
from effir.compress.scoring import Scoring, score_channels
from effir.data.examples import Example
from effir.errors import EffirError
from effir.model.retriever import build_retriever
from effir.model.shape import shape_of
from effir.training.trainer import Schedule

WIDTH, LAYERS = 48, 4  # of the tiny models


@pytest.fixture
def model(whole_checkpoint: Callable[[str], Path]) -> Any:
    return AutoModel.from_pretrained(whole_checkpoint("llama")).eval()


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
        for scores in (lambda: opened(gates), lambda: taylor_scores(gates, [loss])):
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


def test_taylor_is_the_finite_difference_of_the_loss_at_an_open_gate(model: Any, batch: dict[str, Tensor]) -> None:
    step = 0.01  # smaller ones drown in float32, in which norms compute
    with gating(model) as gates:
        scores = taylor_scores(gates, [projected(model, batch), 3 * projected(model, batch)])
        for layer, channel in ((0, 0), (1, 17), (3, 47)):
            ends = []
            for direction in (1, -1):
                with torch.no_grad():
                    gates[layer][channel] = 1 + direction * step
                    ends.append(projected(model, batch).item())
                    gates[layer][channel] = 1
            slope = abs(ends[0] - ends[1]) / (2 * step)
            # Two batches, of which the second has three times the loss: |slope| + |3 slope|.
            assert scores[layer][channel].item() == pytest.approx(4 * slope, rel=0.02)


def test_magnitude_is_the_columns_norm_times_the_channels_root_mean_square_over_real_tokens(
    model: Any, batch: dict[str, Tensor]
) -> None:
    halves = [{k: v[:2] for k, v in batch.items()}, {k: v[2:, :4] for k, v in batch.items()}]
    scores = magnitude_scores(model, halves)
    layer, channel = 2, 11
    total, tokens = 0.0, 0
    for text, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        real = text[: int(mask.sum())]  # a text alone, without padding
        kept: list[Tensor] = []
        hook = model.layers[layer].mlp.down_proj.register_forward_pre_hook(lambda _, args, kept=kept: kept.append(args))
        states(model, {"input_ids": real[None], "attention_mask": torch.ones_like(real)[None]})
        hook.remove()
        total += sum(float(value) ** 2 for value in kept[0][0][0, :, channel])
        tokens += len(real)
    column = sum(value**2 for value in model.layers[layer].mlp.down_proj.weight[:, channel].tolist()) ** 0.5
    assert scores[layer][channel].item() == pytest.approx(column * (total / tokens) ** 0.5, rel=1e-4)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_one_ranking_runs_over_all_layers_together() -> None:
    scores = {1: torch.tensor([0.9, 0.8, 0.7, 0.1]), 3: torch.tensor([0.6, 0.2, 0.3, 0.0])}
    # Half of 8 are the four highest: 0.9, 0.8, 0.7 of layer 1 and 0.6 of layer 3. By layer it would be 2 and 2.
    assert choose_channels(scores, keep=0.5, multiple_of=1) == {1: [0, 1, 2], 3: [0]}
    # A quarter are 0.9 and 0.8, both of layer 1: layer 3 keeps nothing.
    assert choose_channels(scores, keep=0.25, multiple_of=1) == {1: [0, 1], 3: []}
    # Rounded to 2: 3 and 1 are each one above a multiple, with two channels to give: one step, to the first layer.
    assert choose_channels(scores, keep=0.5, multiple_of=2) == {1: [0, 1, 2, 3], 3: []}


def test_equal_scores_are_kept_in_order_and_trained_gates_below_zero_go_first() -> None:
    assert choose_channels({0: torch.ones(3), 1: torch.ones(3)}, keep=0.5, multiple_of=1) == {0: [0, 1, 2], 1: []}
    scores = opened({0: torch.nn.Parameter(torch.tensor([-0.5, 0.1])), 1: torch.nn.Parameter(torch.tensor([-0.1]))})
    assert choose_channels(scores, keep=2 / 3, multiple_of=1) == {0: [1], 1: [0]}


def test_the_total_kept_is_within_one_rounding_step_and_widths_are_multiples() -> None:
    draw = random.Random(0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        multiple = draw.choice([1, 2, 3, 8, 16])
        available = {layer: multiple * draw.randint(1, 8) for layer in draw.sample(range(30), draw.randint(1, 6))}
        scores = {
            layer: torch.randn(width, generator=generator) + draw.gauss(0, 1) for layer, width in available.items()
        }
        total = sum(available.values())
        keep = draw.uniform(min(1, 1.01 * multiple / total), 1)
        kept = choose_channels(scores, keep, multiple)
        case = f"{available} {keep} {multiple}"
        assert kept.keys() == scores.keys(), case
        assert abs(sum(map(len, kept.values())) - keep * total) <= multiple, case
        for layer, channels in kept.items():
            assert len(channels) % multiple == 0, case
            assert channels == sorted(set(channels)), case
            rest = set(range(available[layer])) - set(channels)
            if channels and rest:  # the layer's best are kept, however it was rounded
                assert scores[layer][channels].min() >= scores[layer][sorted(rest)].max(), case


def test_widths_that_are_no_multiple_to_begin_with_are_never_exceeded() -> None:
    # A model cut before may have 20 of 48 channels: 32 would not fit, 16 does; the step goes to layer 1 instead.
    assert round_widths({0: 20, 1: 24}, {0: 20, 1: 48}, multiple_of=16) == {0: 16, 1: 32}


def test_all_are_kept_at_one_whatever_the_multiple() -> None:
    scores = {0: torch.tensor([0.1, 0.2, 0.3]), 2: torch.tensor([0.0])}
    assert choose_channels(scores, keep=1, multiple_of=16) == {0: [0, 1, 2], 2: [0]}


def test_keeping_nothing_at_all_is_refused() -> None:
    # 1 % of 32 channels is no channel.
    with pytest.raises(EffirError, match=r"^prune\.width = 0\.01 keeps no channel at all: raise it, or lower"):
        choose_channels({0: torch.arange(32.0)}, keep=0.01, multiple_of=16)


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


def test_the_summary_of_scores_accounts_for_every_channel() -> None:
    scores = {0: torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]), 4: torch.tensor([10.0, 10.0])}
    found = describe_scores(scores, {0: [3, 4], 4: [0]})
    assert sum(found["counts"]) == 7
    assert (found["edges"][0], found["edges"][-1], len(found["edges"])) == (0, 10, len(found["counts"]) + 1)
    assert found["threshold"] == 3
    assert found["mean"] == pytest.approx(30 / 7)
    assert found["quartiles"] == {0: [0, 1, 2, 3, 4], 4: [10] * 5}


EXAMPLES = [Example(f"w{4 + i} w{5 + i}", f"w{4 + i} w{5 + i} w{6 + i} w{40 - i}", (f"w{10 + i}",)) for i in range(12)]
SCHEDULE = Schedule(
    steps=12,
    batch_size=4,
    learning_rate=0.05,
    warmup=0,
    decay="constant_with_warmup",
    max_tokens=8,
    precision="float32",
    checkpoint_every=6,
    seed=0,
)


@pytest.fixture
def retriever(whole_checkpoint: Callable[[str], Path]) -> SentenceTransformer:
    return build_retriever(
        whole_checkpoint("llama"), pooling="mean", query_prompt="", document_prompt="", max_tokens=16
    )


@pytest.mark.parametrize("method", ["slimming", "taylor", "magnitude", "random"])
def test_every_method_scores_every_channel_and_leaves_the_model_as_it_was(
    retriever: SentenceTransformer, batch: dict[str, Tensor], tmp_path: Path, method: Any
) -> None:
    model = retriever[0].model
    before, seen = states(model, batch), fingerprint(model)
    scoring = Scoring(method, temperature=0.1, l0_weight=1e-8, sharpness=5)
    scores = score_channels(retriever, EXAMPLES, scoring, SCHEDULE, tmp_path / "work", lambda step, row: None)
    assert {layer: tuple(score.shape) for layer, score in scores.items()} == dict.fromkeys(range(LAYERS), (WIDTH,))
    everything = torch.cat(list(scores.values()))
    assert everything.isfinite().all()
    assert everything.std() > 0.01 * everything.mean().abs()  # no method leaves all channels alike
    assert torch.equal(states(model, batch), before)
    assert fingerprint(model) == seen
    assert retriever.max_seq_length == 16


def test_random_scores_are_decided_by_the_seed(retriever: SentenceTransformer, tmp_path: Path) -> None:
    def drawn(seed: int) -> Tensor:
        scoring, schedule = (
            Scoring("random", temperature=0.1, l0_weight=1e-8, sharpness=5),
            replace(SCHEDULE, seed=seed),
        )
        return torch.cat(
            list(score_channels(retriever, EXAMPLES, scoring, schedule, tmp_path / "work", lambda *_: None).values())
        )

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_slimming_moves_the_gates_and_a_heavier_lambda_moves_them_down(
    retriever: SentenceTransformer, tmp_path: Path
) -> None:
    # Adam moves a gate by at most about its learning rate a step: 12 steps of 0.05 from 1 reach 0.4 at the lowest.
    def mean(weight: float) -> float:
        scoring = Scoring("slimming", temperature=0.1, l0_weight=weight, sharpness=5)
        work = tmp_path / str(weight)  # checkpoints stay, and a run takes over those it finds
        scores = score_channels(retriever, EXAMPLES, scoring, SCHEDULE, work, lambda step, row: None)
        return torch.cat(list(scores.values())).mean().item()

    # With a lambda that outweighs the ranking loss every gate goes down at every step.
    assert mean(1e4) == pytest.approx(0.4, abs=0.05)
    assert mean(1e-8) > 0.7


def test_slimming_goes_on_after_a_kill_to_the_same_gates(retriever: SentenceTransformer, tmp_path: Path) -> None:
    scoring = Scoring("slimming", temperature=0.1, l0_weight=1e-8, sharpness=5)

    def die(step: int, row: dict[str, float]) -> None:
        if step == 10:
            raise KeyError("killed")

    whole = score_channels(retriever, EXAMPLES, scoring, SCHEDULE, tmp_path / "a", lambda step, row: None)
    schedule = replace(SCHEDULE, checkpoint_every=4)
    with pytest.raises(KeyError):
        score_channels(retriever, EXAMPLES, scoring, schedule, tmp_path / "b", die)
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["checkpoint-8"]
    again = score_channels(retriever, EXAMPLES, scoring, schedule, tmp_path / "b", lambda step, row: None)
    assert all(torch.equal(again[layer], whole[layer]) for layer in whole)


def test_taylor_reads_a_mixture_part_after_part(
    retriever: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = [Example(f"{i % 2} ask", f"{i % 2} say {i}", (), part=str(i % 2)) for i in range(16)]
    read, preprocess = list[list[str]](), retriever.preprocess

    def witnessed(texts: list[str], **settings: Any) -> Any:
        read.append([text[0] for text in texts])
        return preprocess(texts, **settings)

    monkeypatch.setattr(retriever, "preprocess", witnessed)
    scoring = Scoring("taylor", temperature=0.1, l0_weight=1e-8, sharpness=5)
    score_channels(retriever, mixed, scoring, SCHEDULE, tmp_path / "work", lambda step, row: None)
    assert read == [["0"] * 4] * 4 + [["1"] * 4] * 4  # queries and documents, four batches of four
