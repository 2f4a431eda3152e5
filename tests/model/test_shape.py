"""A shape counts what the real model has, and refuses what it cannot be."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModel

from effir.errors import EffirError
from effir.model.modeling import FAMILIES
from effir.model.shape import LayerCost, ModelShape, shape_of

# Hidden 2, one head of size 2, MLPs of width 3, no biases.
COST = LayerCost(
    attention=18,  # q, k, v, o of 2 x 2, a norm of 2
    attention_matmul=16,
    mlp_fixed=2,  # a norm
    channel=6,  # gate, up, down
    channel_matmul=6,
    embedding=10,
    final_norm=2,
    query_width=2,
)
SHAPE = ModelShape("llama", (3, 3, 3), (True, True, True), COST, is_cut=False)


def test_the_count_equals_the_real_models(whole: Path) -> None:
    model, shape = AutoModel.from_pretrained(whole), shape_of(whole)
    embeddings = model.embed_tokens.weight.numel()
    assert shape.parameters() == model.num_parameters()
    assert shape.parameters(embeddings=False) == model.num_parameters() - embeddings


def test_the_count_of_a_cut_equals_the_real_models(whole: Path, family: str) -> None:
    shape = shape_of(whole).without("block", [0]).without("attention", [2]).with_mlp_widths([0, 7, 0, 48])
    config = FAMILIES[family].config_class.from_pretrained(whole)
    config.mlp_widths, config.attention_kept = list(shape.mlp_widths), list(shape.attention_kept)
    assert shape.parameters() == FAMILIES[family](config).num_parameters()


def test_flops_are_twice_the_multiply_adds_of_the_real_models_matrices(whole: Path) -> None:
    model = AutoModel.from_pretrained(whole)
    matrices = sum(p.numel() for name, p in model.layers.named_parameters() if p.ndim == 2)
    attention = model.layers[0].self_attn
    # 4 layers; with 5 tokens in the text a token sees (1 + 2 + 3 + 4 + 5) / 5 = 3; scores and values are a multiply-add
    # each for every component of every head.
    assert shape_of(whole).flops_per_token(5) == 2 * (matrices + 4 * 2 * attention.q_proj.out_features * 3)


def test_a_hand_counted_shape() -> None:
    # 3 attentions (54), 3 MLPs (6 + 9 channels x 6 = 60), final norm 2, embeddings 10.
    assert (SHAPE.parameters(), SHAPE.parameters(embeddings=False)) == (126, 116)
    # Without attention 0 (18) and MLP 1 (2 + 18) and two channels of MLP 2 (12): 50 fewer.
    cut = SHAPE.without("attention", [0]).without("mlp", [1]).with_mlp_widths([3, 0, 1])
    assert cut.parameters() == 76
    # Matrices: 2 attentions x 16 + 4 channels x 6 = 56; a lone token sees itself: 2 attentions x 2 x 2 = 8; twice that.
    assert cut.flops_per_token(1) == 128


def test_mistral_7b_has_the_parameters_that_the_paper_counts(tmp_path: Path) -> None:
    settings = {"num_hidden_layers": 32, "num_key_value_heads": 8, "intermediate_size": 14336}  # Mistral-7B-v0.1
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mistral", **settings}))
    full = shape_of(tmp_path)
    half = full.without("mlp", range(16))
    slim = half.with_mlp_widths([width * 7 // 10 for width in half.mlp_widths])
    drops = [full.without("mlp", range(20)), full.without("attention", range(16)), full.without("block", range(8))]
    # EffiR's table: full, 16 MLPs, 20 MLPs, 16 attentions, 8 blocks; 16 MLPs and 30 % of the width.
    billions = [round(shape.parameters() / 1e9, 1) for shape in (full, half, *drops, slim)]
    assert billions == [7.1, 4.3, 3.6, 6.4, 5.4, 3.4]


def test_a_block_is_both_its_sublayers() -> None:
    assert SHAPE.without("block", [1]) == SHAPE.without("mlp", [1]).without("attention", [1])
    assert SHAPE.without("block", [1]).layers == 3
    assert SHAPE.without("mlp", [1]).having("block") == [0, 1, 2]
    assert SHAPE.without("mlp", [1]).without("block", [1]).having("block") == [0, 2]


def test_a_shape_is_not_changed_by_what_is_made_of_it() -> None:
    SHAPE.without("block", [0, 2])
    assert SHAPE.having("block") == [0, 1, 2]
    assert SHAPE.without("mlp", []) == SHAPE


def test_contradictions_die_at_construction() -> None:
    with pytest.raises(EffirError, match="layer 3 is not there: the model has 3 layers, 0 to 2"):
        SHAPE.without("mlp", [3])
    with pytest.raises(EffirError, match="layer -1 is not there"):
        SHAPE.without("mlp", [-1])
    with pytest.raises(EffirError, match="layer 1 has no mlp left: choose among 0, 2"):
        SHAPE.without("mlp", [1]).without("mlp", [1])
    with pytest.raises(EffirError, match="layer 0 is named twice"):
        SHAPE.without("attention", [0, 0])
    with pytest.raises(EffirError, match="layer 1's MLP has 3 channels: keep at most that, not 4"):
        SHAPE.with_mlp_widths([3, 4, 3])
    with pytest.raises(EffirError, match="2 MLP widths are given, but the model has 3 layers"):
        SHAPE.with_mlp_widths([3, 3])
    with pytest.raises(EffirError, match="layer 0's MLP cannot have -1 channels"):
        SHAPE.with_mlp_widths([-1, 3, 3])
    with pytest.raises(EffirError, match="give one entry per layer in both"):
        replace(SHAPE, attention_kept=(True,))


def test_an_unsupported_family_is_told_the_supported_ones(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    families = "llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3_text"
    with pytest.raises(EffirError, match=f"is a gpt2 model, which effir cannot cut: choose one of {families}"):
        shape_of(tmp_path)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        EffirError,
        match=re.escape(f"{tmp_path} is not a Hugging Face checkpoint, it has no config.json: name another folder"),
    ):
        shape_of(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EffirError, match="has no model_type"):
        shape_of(tmp_path)


@pytest.mark.parametrize("widths", [[48, 48], [48, 48, 48, 49], [48, 48, 48, -1]])
def test_a_config_whose_widths_cannot_be_is_refused(
    widths: list[int], whole_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    config = json.loads((whole_checkpoint("llama") / "config.json").read_text())
    config |= {"model_type": "effir_llama", "mlp_widths": widths, "attention_kept": [True] * 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(EffirError, match="that its 4 layers cannot have"):
        shape_of(tmp_path)
