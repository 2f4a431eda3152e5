"""Four methods score every channel through one interface, and the model does not change."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from effir.compress.channel_scores import Scoring, magnitude_scores, score_channels, taylor_scores, without_duplicates
from effir.compress.gates import gating
from effir.data.examples import Example
from effir.model.retriever import build_retriever
from effir.training.trainer import Job, Log, Schedule
from tests.compress.test_gates import LAYERS, WIDTH, fingerprint, projected, states

pytestmark = pytest.mark.slow


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


def job(work: Path, log: Log = lambda step, row: None, **changes: Any) -> Job:
    return Job(replace(SCHEDULE, **changes), work, log)


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
    scores = score_channels(retriever, EXAMPLES, scoring, job(tmp_path))
    assert {layer: tuple(score.shape) for layer, score in scores.items()} == dict.fromkeys(range(LAYERS), (WIDTH,))
    everything = torch.cat(list(scores.values()))
    assert everything.isfinite().all()
    assert everything.std() > 0.01 * everything.mean().abs()  # no method leaves all channels alike
    assert torch.equal(states(model, batch), before)
    assert fingerprint(model) == seen
    assert retriever.max_seq_length == 16


def test_random_scores_are_decided_by_the_seed(retriever: SentenceTransformer, tmp_path: Path) -> None:
    def drawn(seed: int) -> Tensor:
        scoring = Scoring("random", temperature=0.1, l0_weight=1e-8, sharpness=5)
        return torch.cat(list(score_channels(retriever, EXAMPLES, scoring, job(tmp_path, seed=seed)).values()))

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_slimming_moves_the_gates_and_a_heavier_lambda_moves_them_down(
    retriever: SentenceTransformer, tmp_path: Path
) -> None:
    # Adam moves a gate by at most about its learning rate a step: 12 steps of 0.05 from 1 reach 0.4 at the lowest.
    def mean(weight: float) -> float:
        scoring = Scoring("slimming", temperature=0.1, l0_weight=weight, sharpness=5)
        work = tmp_path / str(weight)  # a run continues from the checkpoints that it finds
        scores = score_channels(retriever, EXAMPLES, scoring, job(work))
        return torch.cat(list(scores.values())).mean().item()

    # With a lambda that outweighs the ranking loss every gate goes down at every step.
    assert mean(1e4) == pytest.approx(0.4, abs=0.05)
    assert mean(1e-8) > 0.7


def test_slimming_continues_after_a_kill_to_the_same_gates(retriever: SentenceTransformer, tmp_path: Path) -> None:
    scoring = Scoring("slimming", temperature=0.1, l0_weight=1e-8, sharpness=5)

    def die(step: int, row: dict[str, float]) -> None:
        if step == 10:
            raise KeyError("killed")

    expected = score_channels(retriever, EXAMPLES, scoring, job(tmp_path / "a"))
    with pytest.raises(KeyError):
        score_channels(retriever, EXAMPLES, scoring, job(tmp_path / "b", die, checkpoint_every=4))
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["checkpoint-8"]
    again = score_channels(retriever, EXAMPLES, scoring, job(tmp_path / "b", checkpoint_every=4))
    assert all(torch.equal(again[layer], score) for layer, score in expected.items())


def test_taylor_reads_a_mixture_part_after_part(
    retriever: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = [Example(f"{i % 2} ask {i}", f"{i % 2} say {i}", (), part=str(i % 2)) for i in range(16)]
    read, preprocess = list[list[str]](), retriever.preprocess

    def witnessed(texts: list[str], **settings: Any) -> Any:
        read.append([text[0] for text in texts])
        return preprocess(texts, **settings)

    monkeypatch.setattr(retriever, "preprocess", witnessed)
    scoring = Scoring("taylor", temperature=0.1, l0_weight=1e-8, sharpness=5)
    score_channels(retriever, mixed, scoring, job(tmp_path))
    assert read == [["0"] * 4] * 4 + [["1"] * 4] * 4  # queries and documents, four batches of four


def test_a_batch_holds_an_answer_once_and_every_pair_is_read() -> None:
    pairs = [Example(f"q{i}", f"answer {i % 2}" if i < 6 else f"answer {i}", ()) for i in range(8)]
    read = [[pair.query for pair in batch] for batch in without_duplicates(pairs, 4)]
    assert read == [["q0", "q1", "q6", "q7"], ["q2", "q3"], ["q4", "q5"]]
    assert list(without_duplicates(pairs[5:], 2)) == [pairs[5:7], pairs[7:]]  # in order where no answer is shared
