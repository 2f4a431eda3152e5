"""One ranking over all layers decides which channels stay."""

import random
from pathlib import Path

import pytest
import torch

from effir.compress.channels import choose_channels, describe_scores, load_scores, round_widths, save_scores
from effir.compress.gates import gate_scores
from effir.errors import EffirError


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
    scores = gate_scores(
        {0: torch.nn.Parameter(torch.tensor([-0.5, 0.1])), 1: torch.nn.Parameter(torch.tensor([-0.1]))}
    )
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


def test_keeping_no_channel_is_refused() -> None:
    # 1 % of 32 channels is no channel.
    with pytest.raises(EffirError, match=r"^prune\.width = 0\.01 keeps no channel: raise it, or lower"):
        choose_channels({0: torch.arange(32.0)}, keep=0.01, multiple_of=16)


def test_the_summary_of_scores_accounts_for_every_channel() -> None:
    scores = {0: torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]), 4: torch.tensor([10.0, 10.0])}
    found = describe_scores(scores, {0: [3, 4], 4: [0]})
    assert sum(found["counts"]) == 7
    assert (found["edges"][0], found["edges"][-1], len(found["edges"])) == (0, 10, len(found["counts"]) + 1)
    assert found["threshold"] == 3
    assert found["mean"] == pytest.approx(30 / 7)
    assert found["quartiles"] == {0: [0, 1, 2, 3, 4], 4: [10] * 5}


def test_a_file_of_scores_keeps_their_values_order_and_method(tmp_path: Path) -> None:
    scores = {10: torch.tensor([0.5, 1.5]), 2: torch.tensor([3.0])}
    save_scores(scores, "taylor", tmp_path / "scores")
    loaded, method = load_scores(tmp_path / "scores")
    assert (list(loaded), method) == ([2, 10], "taylor")  # by layer, not by name
    assert all(torch.equal(loaded[layer], scores[layer]) for layer in scores)
