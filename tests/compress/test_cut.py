"""Cutting equals zeroing, for every family."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from effir.compress.cut import cut_checkpoint
from effir.errors import EffirError
from effir.model.shape import shape_of

LAYERS, WIDTH = 4, 48

# mlp, attention: layers dropped; channels: layer -> kept channels. Layer 0 is special: a cache counts its tokens.
CUTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "mlps": {"mlp": [1, 3]},
    "attentions": {"attention": [0, 2]},
    "blocks": {"mlp": [1, 2], "attention": [1, 2]},
    "channels": {"channels": {0: range(5, 40), 1: [47, 0, 3], 3: [9]}},
    "everything": {"mlp": [2], "attention": [2, 3], "channels": {0: range(1, 48, 2), 3: range(16)}},
    "all mlps": {"mlp": [0, 1, 2, 3]},
}


def zeroed(
    folder: Path, mlp: Sequence[int] = (), attention: Sequence[int] = (), channels: Mapping[int, Any] = {}
) -> Any:
    """The uncompressed model with the outputs of what is dropped set to zero: the reference, without code of effir."""
    model = AutoModel.from_pretrained(folder).eval()
    last_of_mlp, last_of_attention = (
        [layer.mlp.down_proj for layer in model.layers],
        [x.self_attn.o_proj for x in model.layers],
    )
    with torch.no_grad():
        for linear in [last_of_mlp[i] for i in mlp] + [last_of_attention[i] for i in attention]:
            for parameter in linear.parameters():
                parameter.zero_()
        for layer, kept in channels.items():
            last_of_mlp[layer].weight[:, [c for c in range(WIDTH) if c not in set(kept)]] = 0
    return model


def cut(
    folder: Path, into: Path, mlp: Sequence[int] = (), attention: Sequence[int] = (), channels: Mapping[int, Any] = {}
) -> Path:
    shape = shape_of(folder).without("mlp", mlp).without("attention", attention)
    widths = [len(channels.get(layer, range(width))) for layer, width in enumerate(shape.mlp_widths)]
    cut_checkpoint(folder, into, shape.with_mlp_widths(widths), channels)
    return into


def states(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Last hidden states of the real tokens, (real tokens, hidden)."""
    with torch.inference_mode():
        return model(**batch).last_hidden_state[batch["attention_mask"].bool()]


def opened(folder: Path) -> Any:
    return AutoModel.from_pretrained(folder).eval()


@pytest.mark.parametrize("name", CUTS)
def test_cutting_equals_zeroing(name: str, whole: Path, tmp_path: Path, batch: dict[str, torch.Tensor]) -> None:
    model = opened(cut(whole, tmp_path / "cut", **CUTS[name]))
    assert type(model).__name__.startswith("Effir")
    torch.testing.assert_close(states(model, batch), states(zeroed(whole, **CUTS[name]), batch), atol=1e-5, rtol=0)


def test_the_cuts_change_the_states(whole: Path, batch: dict[str, torch.Tensor]) -> None:
    """Without this, cutting could equal zeroing because neither does anything."""
    untouched = states(zeroed(whole), batch)
    for name in ("mlps", "attentions", "channels"):
        assert (states(zeroed(whole, **CUTS[name]), batch) - untouched).abs().max() > 0.01


def test_depth_then_width_equals_both_at_once(whole: Path, tmp_path: Path, batch: dict[str, torch.Tensor]) -> None:
    depth = cut(whole, tmp_path / "depth", mlp=[2], attention=[3])
    first = cut(depth, tmp_path / "first", channels={0: range(10, 40)})
    # Channels 10..39 are now 0..29: keeping every third of those keeps 10, 13, ..., 37 of the original.
    second = opened(cut(first, tmp_path / "second", channels={0: range(0, 30, 3)}))
    reference = zeroed(whole, mlp=[2], attention=[3], channels={0: range(10, 40, 3)})
    torch.testing.assert_close(states(second, batch), states(reference, batch), atol=1e-5, rtol=0)


def test_a_save_and_a_load_change_nothing(whole: Path, tmp_path: Path, batch: dict[str, torch.Tensor]) -> None:
    model = opened(cut(whole, tmp_path / "cut", **CUTS["everything"]))
    model.save_pretrained(tmp_path / "saved")
    again = opened(tmp_path / "saved")
    assert (states(again, batch) - states(model, batch)).abs().max().item() == 0.0
    assert shape_of(tmp_path / "saved") == shape_of(tmp_path / "cut")


def test_no_cut_weight_is_stored(whole: Path, tmp_path: Path) -> None:
    folder = cut(whole, tmp_path / "cut", **CUTS["everything"])
    stored = load_file(folder / "model.safetensors")
    assert sum(tensor.numel() for tensor in stored.values()) == shape_of(folder).parameters()
    assert not [name for name in stored if name.startswith(("layers.2.", "lm_head", "model."))]
    assert not [name for name in stored if name.startswith(("layers.3.self_attn.", "layers.3.input_layernorm"))]
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_exactly_these_files_are_written(whole: Path, tmp_path: Path) -> None:
    folder = cut(whole, tmp_path / "cut", mlp=[1])
    files = {"config.json", "model.safetensors", "modeling.py", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in folder.iterdir()} == files
    assert [path.name for path in tmp_path.iterdir()] == ["cut"]


def test_the_config_says_what_was_cut(whole: Path, family: str, tmp_path: Path) -> None:
    config = json.loads((cut(whole, tmp_path / "cut", **CUTS["everything"]) / "config.json").read_text())
    assert config["mlp_widths"] == [24, 48, 0, 16]  # 1, 3, ..., 47 are 24 channels
    assert config["attention_kept"] == [True, True, False, False]
    assert (config["model_type"], config["use_cache"]) == (f"effir_{family}", False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_number_format_stays(dtype: torch.dtype, whole_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    AutoModel.from_pretrained(whole_checkpoint("llama"), dtype=dtype).save_pretrained(tmp_path / "half")
    folder = cut(tmp_path / "half", tmp_path / "cut", **CUTS["everything"])
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {dtype}
    assert opened(folder).dtype == dtype


def test_a_sharded_checkpoint_is_cut_shard_by_shard(
    whole_checkpoint: Callable[[str], Path], tmp_path: Path, batch: dict[str, torch.Tensor]
) -> None:
    whole = whole_checkpoint("qwen3")
    AutoModel.from_pretrained(whole).save_pretrained(tmp_path / "shards", max_shard_size="30KB")
    assert not (tmp_path / "shards/model.safetensors").exists()
    folder = cut(tmp_path / "shards", tmp_path / "cut", **CUTS["everything"])
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    stored = {name: file.name for file in folder.glob("*.safetensors") for name in load_file(file)}
    assert index["weight_map"] == stored
    assert index["metadata"]["total_size"] == 4 * shape_of(folder).parameters()  # float32
    torch.testing.assert_close(
        states(opened(folder), batch), states(zeroed(whole, **CUTS["everything"]), batch), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("prefix", ["", "model.", "_orig_mod.model."])
def test_a_cut_of_one_shard_with_an_index_opens(
    prefix: str, whole_checkpoint: Callable[[str], Path], tmp_path: Path, batch: dict[str, torch.Tensor]
) -> None:
    whole, source = whole_checkpoint("qwen3"), tmp_path / "source"
    AutoModel.from_pretrained(whole).save_pretrained(source)
    shard = source / "model-00001-of-00001.safetensors"
    weights = {f"{prefix}{name}": tensor for name, tensor in load_file(source / "model.safetensors").items()}
    save_file(weights, shard, metadata={"format": "pt"})
    (source / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, shard.name)}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    for path in whole.glob("tokenizer*"):
        (source / path.name).write_bytes(path.read_bytes())
    folder = cut(source, tmp_path / "cut", **CUTS["everything"])
    torch.testing.assert_close(
        states(opened(folder), batch), states(zeroed(whole, **CUTS["everything"]), batch), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("declared", ["LlamaTokenizer", "LlamaTokenizerFast", "Qwen2Tokenizer"])
def test_the_cut_model_tokenizes_as_the_uncompressed_one(
    declared: str, family: str, whole_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Transformers picks the tokenizer's class by model_type too, and knows no effir_mistral."""
    source = tmp_path / "source"
    source.mkdir()
    for path in whole_checkpoint(family).iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": declared}))
    folder = cut(source, tmp_path / "cut", mlp=[1])
    whole, cut_one = (AutoTokenizer.from_pretrained(path) for path in (source, folder))
    assert type(cut_one) is type(whole)
    assert cut_one("w5 w9 nothing w7")["input_ids"] == whole("w5 w9 nothing w7")["input_ids"]


WRONG = {
    "goes from 48 to 5 channels: list the channels to keep": ([5, 48, 48, 48], {}),
    "keeps 3 channels, but 2 different ones are listed": ([3, 48, 48, 48], {0: [1, 1, 2]}),
    "has channels 0 to 47, not 1 to 48": ([2, 48, 48, 48], {0: [1, 48]}),
    "layer 9 is not there: the model has 4 layers, 0 to 3": ([48] * 4, {9: [1]}),
    "layer 1's MLP keeps 48 channels, but 1 different ones are listed": ([48] * 4, {1: [1]}),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_channels_that_contradict_the_shape_are_refused(
    sentence: str, whole_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    widths, channels = WRONG[sentence]
    whole = whole_checkpoint("llama")
    with pytest.raises(EffirError, match=sentence):
        cut_checkpoint(whole, tmp_path / "cut", shape_of(whole).with_mlp_widths(widths), channels)
    assert not list(tmp_path.iterdir())


def test_gates_are_folded_into_the_channels_that_stay(
    whole: Path, tmp_path: Path, batch: dict[str, torch.Tensor]
) -> None:
    gate = torch.linspace(0, 2, WIDTH)
    channels = {0: range(5, 40)}
    widths = [35, *[WIDTH] * (LAYERS - 1)]
    gates = {0: gate, 2: gate.flip(0)}  # layer 0 loses channels too, layer 2 does not
    cut_checkpoint(whole, tmp_path / "cut", shape_of(whole).with_mlp_widths(widths), channels, gates)
    reference = zeroed(whole, channels=channels)
    ungated = states(reference, batch)
    for layer, factor in gates.items():
        reference.layers[layer].mlp.down_proj.register_forward_pre_hook(lambda _, args, g=factor: (args[0] * g,))
    gated = states(reference, batch)
    torch.testing.assert_close(states(opened(tmp_path / "cut"), batch), gated, atol=1e-5, rtol=0)
    assert (gated - ungated).abs().max() > 0.01


def test_gates_of_another_width_are_refused(whole_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    whole = whole_checkpoint("llama")
    with pytest.raises(EffirError, match=r"layer 1's MLP has 48 channels, but its gates have shape \(3,\)"):
        cut_checkpoint(whole, tmp_path / "cut", shape_of(whole), gates={1: torch.ones(3)})
    assert not list(tmp_path.iterdir())


def test_a_dropped_sublayer_cannot_be_kept(whole_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    whole = whole_checkpoint("llama")
    folder = cut(whole, tmp_path / "cut", mlp=[1], attention=[2])
    shape = shape_of(folder)
    with pytest.raises(EffirError, match="layer 1's MLP has 0 channels: keep at most that, not 48"):
        cut_checkpoint(folder, tmp_path / "again", replace(shape, mlp_widths=(48,) * 4))
    with pytest.raises(EffirError, match="layer 2 has no attention to keep"):
        cut_checkpoint(folder, tmp_path / "again", replace(shape, attention_kept=(True,) * 4))
    with pytest.raises(EffirError, match="of another gemma model"):
        cut_checkpoint(folder, tmp_path / "again", shape_of(whole_checkpoint("gemma")))
    with pytest.raises(EffirError, match="cannot be cut onto itself"):
        cut_checkpoint(folder, folder, shape)


def test_a_failed_cut_leaves_what_was_there(whole_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    source, into = tmp_path / "source", tmp_path / "into"
    AutoModel.from_pretrained(whole_checkpoint("llama")).save_pretrained(source)
    weights = load_file(source / "model.safetensors")
    cut(source, into, mlp=[0])
    before = (into / "config.json").read_bytes()
    save_file({name: weights[name] for name in weights if name != "norm.weight"}, source / "model.safetensors")
    with pytest.raises(EffirError, match=r"holds no norm\.weight: give a complete checkpoint"):
        cut(source, into, mlp=[1])
    save_file(weights | {"norm.weight": torch.ones(5)}, source / "model.safetensors")
    with pytest.raises(EffirError, match=r"norm\.weight is torch\.float32 of shape \(5,\)"):
        cut(source, into, mlp=[1])
    (source / "model.safetensors").unlink()
    with pytest.raises(EffirError, match=r"has no weights in model\.safetensors"):
        cut(source, into, mlp=[1])
    assert (into / "config.json").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"source", "into"}


@pytest.mark.slow
def test_a_program_that_only_cuts_asks_for_no_trust(whole_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    # transformers does not know `effir_llama` by itself: it would ask whether to run the code of the checkpoint.
    cut_checkpoint(whole_checkpoint("llama"), tmp_path / "first", shape_of(whole_checkpoint("llama")))
    program = (
        "import sys; from pathlib import Path; from effir.compress.cut import cut_checkpoint; "
        "from effir.model.shape import shape_of; source = Path(sys.argv[1]); "
        "cut_checkpoint(source, Path(sys.argv[2]), shape_of(source))"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / "first"), str(tmp_path / "second")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert "custom code" not in done.stdout + done.stderr
    assert (tmp_path / "second/tokenizer_config.json").is_file()
