"""One pass scores every sublayer as a naive reading of all hidden states does."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from effir.compress.cut import cut_checkpoint
from effir.compress.redundancy import Recorder, mean_importance, measure_importance, recording
from effir.errors import EffirError
from effir.model.shape import shape_of

Batch = dict[str, torch.Tensor]


def naive_blocks(model: Any, batch: Batch) -> list[float]:
    """1 - cos between each layer's input and output, by transformers' own output_hidden_states.

    The last of these has gone through the final norm, so the last layer is left out.
    """
    with torch.no_grad():
        states = model(**batch, output_hidden_states=True).hidden_states
    real = batch["attention_mask"].bool()
    pairs = pairwise(states[:-1])
    return [(1 - torch.cosine_similarity(a[real].double(), b[real].double(), dim=-1)).mean().item() for a, b in pairs]


def naive_halves(model: Any, batch: Batch, layer: int) -> tuple[float, float]:
    """One layer's attention and MLP, by zeroing its MLP: then the layer's output is the stream between the two."""
    with torch.no_grad():
        states = model(**batch, output_hidden_states=True).hidden_states
        for parameter in model.layers[layer].mlp.down_proj.parameters():
            parameter.zero_()
        between = model(**batch, output_hidden_states=True).hidden_states[layer + 1]
    real = batch["attention_mask"].bool()
    before, mid, after = (x[real].double() for x in (states[layer], between, states[layer + 1]))
    score = [(1 - torch.cosine_similarity(a, b, dim=-1)).mean().item() for a, b in ((before, mid), (mid, after))]
    return score[0], score[1]


def test_scores_equal_a_naive_reading_of_all_hidden_states(whole: Path, batch: Batch) -> None:
    model = AutoModel.from_pretrained(whole).eval()
    importance = measure_importance(model, [batch])
    assert (importance.samples, importance.tokens) == (3, 18)  # 9 + 6 + 3 tokens
    assert importance.block[:-1] == pytest.approx(naive_blocks(model, batch), abs=1e-6)
    attention, mlp = naive_halves(model, batch, layer=1)
    assert (importance.attention[1], importance.mlp[1]) == pytest.approx((attention, mlp), abs=1e-6)
    assert min(importance.attention + importance.mlp + importance.block) > 1e-4


def test_padding_has_no_effect(whole: Path, batch: Batch) -> None:
    model = AutoModel.from_pretrained(whole).eval()
    alone = [{k: v[i : i + 1, :length] for k, v in batch.items()} for i, length in enumerate((9, 6, 3))]
    together, apart = measure_importance(model, [batch]), measure_importance(model, alone)
    for sublayer, scores in together.scores().items():
        assert scores == pytest.approx(apart.scores()[sublayer], abs=1e-6)


@pytest.mark.usefixtures("two_threads")
def test_batches_side_by_side_score_as_one_after_the_other(whole: Path, batch: Batch) -> None:
    model = AutoModel.from_pretrained(whole).eval()
    batches = [{k: v[i : i + 1, :length] for k, v in batch.items()} for i, length in enumerate((9, 6, 3))] * 4
    together, again = measure_importance(model, batches), measure_importance(model, batches)
    assert together == again  # the same bytes, whichever thread ends first
    torch.set_num_threads(1)
    alone = measure_importance(model, batches)
    assert (together.samples, together.tokens) == (alone.samples, alone.tokens) == (12, 72)
    for sublayer, scores in together.scores().items():
        assert scores == pytest.approx(alone.scores()[sublayer], abs=1e-6)


def test_a_dropped_sublayer_scores_zero(whole: Path, tmp_path: Path, batch: Batch) -> None:
    shape = shape_of(whole).without("mlp", [1]).without("attention", [2]).without("block", [3])
    cut_checkpoint(whole, tmp_path / "cut", shape)
    importance = measure_importance(AutoModel.from_pretrained(tmp_path / "cut"), [batch])
    assert [score > 0 for score in importance.mlp] == [True, False, True, False]
    assert [score > 0 for score in importance.attention] == [True, True, False, False]
    assert (importance.mlp[1], importance.attention[2], importance.block[3]) == (0, 0, 0)


def test_a_model_with_its_head_scores_as_without(whole_checkpoint: Callable[[str], Path], batch: Batch) -> None:
    folder = whole_checkpoint("llama")
    with_head, without = AutoModelForCausalLM.from_pretrained(folder), AutoModel.from_pretrained(folder)
    assert measure_importance(with_head, [batch]) == measure_importance(without, [batch])


def test_hooks_are_removed_and_the_mode_comes_back(whole_checkpoint: Callable[[str], Path], batch: Batch) -> None:
    model = AutoModel.from_pretrained(whole_checkpoint("llama")).train()

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    before = hooks()
    with recording(model):
        assert hooks() == before + 1 + 2 * 4  # two a layer, and the input of the first
    assert hooks() == before
    with pytest.raises(KeyError), recording(model):
        model.no_such_module = {}["a failure inside the block"]
    assert hooks() == before
    measure_importance(model, [batch])
    assert (hooks(), model.training) == (before, True)


def test_a_hand_derived_score() -> None:
    mask = torch.tensor([[1, 1, 0]])
    recorder = Recorder(layers=1, attention_mask=mask)
    # Token 0 turns by 90 degrees in the attention (1 - 0 = 1) and not in the MLP, which doubles it (0).
    # Token 1 stays in the attention (0) and turns by 60 degrees in the MLP (1 - 1/2). Token 2 is padding.
    recorder.record("in", torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]]))
    recorder.record("mid", torch.tensor([[[0.0, 1.0], [3.0, 0.0], [0.0, 1.0]]]))
    recorder.record("out", torch.tensor([[[0.0, 2.0], [0.5, 3**0.5 / 2], [-1.0, 0.0]]]))
    recorder.score(0)
    found = mean_importance([recorder.sums], [mask])
    assert (found.samples, found.tokens) == (1, 2)
    assert found.attention == pytest.approx([0.5])  # (1 + 0) / 2
    assert found.mlp == pytest.approx([0.25])  # (0 + 1/2) / 2
    assert found.block == pytest.approx([0.75])  # (1 + 1/2) / 2


def test_no_texts_and_broken_numbers_are_one_sentence(whole_checkpoint: Callable[[str], Path], batch: Batch) -> None:
    model = AutoModel.from_pretrained(whole_checkpoint("llama"))
    with pytest.raises(EffirError, match="there are no texts to measure importance on"):
        measure_importance(model, [])
    with torch.no_grad():
        model.layers[2].mlp.down_proj.weight.fill_(float("inf"))
    with pytest.raises(EffirError, match="layer 2 computes numbers that are not finite"):
        measure_importance(model, [batch])
