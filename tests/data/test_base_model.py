import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModel, AutoTokenizer, LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from effir.data.base_model import install_base_model
from effir.errors import EffirError
from effir.files import sha256_of

pytestmark = pytest.mark.slow

WORDS = ["<unk>", "<s>", "</s>", *"abcdefghijkl", "ab"]  # 16
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIG = LlamaConfig(**SIZES, num_key_value_heads=4, vocab_size=len(WORDS), max_position_embeddings=128)


def random_llama() -> LlamaModel:
    torch.manual_seed(0)
    return LlamaModel(CONFIG)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder as save_pretrained writes it, in three shards, with files that no one needs."""
    folder = tmp_path / "source"
    random_llama().save_pretrained(folder, max_shard_size="30KB")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>").save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    return folder


def tiny_gguf(
    path: Path,
    without: str = "nothing",
    more: Mapping[str, int] = {},
    scaling: str = "none",
    part_bytes: int = 0,
    kv_heads: int | None = 4,
) -> LlamaModel:
    """Write random_llama as GGUF, float32, with a byte-level tokenizer; llama.cpp's names, q and k rows permuted.

    Tensors that contain ``without`` are left out, zeros of a size are added, and parts are begun at ``part_bytes``.
    """
    model, writer = random_llama(), gguf.GGUFWriter(path, "llama", split_max_size=part_bytes)
    writer.add_rope_scaling_type(gguf.RopeScalingType(scaling))
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    if kv_heads is not None:
        writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3, 3] + [1] * 13)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    for name, weight in model.state_dict().items():
        tensor, values = gguf_tensor(name, weight.numpy())
        if without not in tensor:
            writer.add_tensor(tensor, values)
    for name, size in more.items():
        writer.add_tensor(name, np.zeros(size, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


NAMES = {
    "embed_tokens": "token_embd",
    "layers": "blk",
    "norm": "output_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_tensor(name: str, weight: "np.ndarray[Any, Any]") -> tuple[str, "np.ndarray[Any, Any]"]:
    stem = name.removesuffix(".weight")
    if stem.startswith("layers."):
        _, layer, part = stem.split(".", 2)
        if part.endswith(("q_proj", "k_proj")):  # llama.cpp interleaves the two halves that rotate together
            weight = weight.reshape(4, 2, 4, 32).swapaxes(1, 2).reshape(32, 32)
        return f"blk.{layer}.{NAMES[part]}.weight", np.ascontiguousarray(weight)
    return f"{NAMES[stem]}.weight", weight


def assert_same_function(installed: Path, model: LlamaModel) -> None:
    tokens = torch.arange(3, 13)[None]  # (1, 10)
    opened = AutoModel.from_pretrained(installed)
    with torch.no_grad():
        torch.testing.assert_close(
            opened(tokens).last_hidden_state, model.eval()(tokens).last_hidden_state, atol=1e-5, rtol=0
        )


def test_of_a_folder_the_safetensors_configuration_and_tokenizer_are_taken_and_no_pickle_or_code(
    folder: Path, tmp_path: Path
) -> None:
    install_base_model(str(folder), tmp_path / "base", tmp_path / "cache")
    taken = {path.name for path in (tmp_path / "base").iterdir()}
    assert taken == {path.name for path in folder.iterdir()} - {"pytorch_model.bin", "modeling_evil.py"}
    assert len([name for name in taken if name.endswith(".safetensors")]) > 1
    assert AutoTokenizer.from_pretrained(tmp_path / "base").eos_token == "</s>"
    assert_same_function(tmp_path / "base", random_llama())


def test_a_gguf_becomes_a_plain_folder_that_computes_the_same(tmp_path: Path) -> None:
    model = tiny_gguf(tmp_path / "tiny.gguf")
    install_base_model(str(tmp_path / "tiny.gguf"), tmp_path / "base", tmp_path / "cache")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    assert config["architectures"] == ["LlamaModel"]
    assert "quantization_config" not in config
    assert_same_function(tmp_path / "base", model)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.model_max_length) == ("<s>", "</s>", 128)
    assert tokenizer("cab").input_ids == [WORDS.index("c"), WORDS.index("ab")]  # by the only merge there is


TWICE = """
import sys
from pathlib import Path
from effir.data.base_model import install_base_model
from effir.model.retriever import build_retriever, save_retriever

source, into, cache = sys.argv[1:]
install_base_model(source, Path(into) / "base", Path(cache))
model = build_retriever(Path(into) / "base", pooling="last", query_prompt="", document_prompt="", max_tokens=8)
save_retriever(model, Path(into) / "retriever")
"""


def test_a_conversion_and_its_retriever_have_equal_bytes_each_time_offline_too(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    for offline in ("0", "1"):  # read when transformers is imported, and saved by it
        names = (str(tmp_path / "tiny.gguf"), str(tmp_path / offline), str(tmp_path / "cache"))
        env = {**os.environ, "HF_HUB_OFFLINE": offline}
        subprocess.run([sys.executable, "-c", TWICE, *names], env=env, check=True, timeout=120)
    assert sha256_of(tmp_path / "0") == sha256_of(tmp_path / "1")


def remove(*patterns: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for pattern in patterns:
            for path in folder.glob(pattern):
                path.unlink()

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (remove("config.json"), r"has no config\.json"),
        (remove("*.safetensors"), "has only pickled weights, which can run code: save it with save_pretrained"),
        (remove("*.safetensors", "*.bin"), r"has no \*\.safetensors"),
        (remove("model-00002*"), r"lacks model-00002-of-\d+\.safetensors, which model\.safetensors\.index\.json names"),
        (remove("tokenizer*"), "has no tokenizer"),
    ],
    ids=["config", "pickle", "weights", "shard", "tokenizer"],
)
def test_an_incomplete_folder_is_refused_and_nothing_is_installed(
    change: Callable[[Path], None], says: str, folder: Path, tmp_path: Path
) -> None:
    change(folder)
    with pytest.raises(EffirError, match=says):
        install_base_model(str(folder), tmp_path / "base", tmp_path / "cache")
    assert os.listdir(tmp_path) == ["source"]


def test_the_vocabulary_of_a_gguf_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    parsed = list[str]()

    class Counted(gguf.GGUFReader):
        def __init__(self, path: str) -> None:
            parsed.append(path)
            super().__init__(path)

    monkeypatch.setattr(gguf, "GGUFReader", Counted)
    install_base_model(str(tmp_path / "tiny.gguf"), tmp_path / "base", tmp_path / "cache")
    assert (len(parsed), gguf.GGUFReader) == (1, Counted)


def test_a_damaged_gguf_or_another_file_is_one_sentence(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "tiny.gguf").read_bytes()[:2000])
    with pytest.raises(EffirError, match=r"cut\.gguf is damaged or has an unknown architecture"):
        install_base_model(str(tmp_path / "cut.gguf"), tmp_path / "base", tmp_path / "cache")
    (tmp_path / "model.bin").write_bytes(b"a pickle")
    with pytest.raises(EffirError, match=r"model\.bin is not a model: name a \.gguf file, or a folder"):
        install_base_model(str(tmp_path / "model.bin"), tmp_path / "base", tmp_path / "cache")
    assert not (tmp_path / "base").exists()


def resave(folder: Path, change: Callable[[str, torch.Tensor], tuple[str, torch.Tensor] | None]) -> None:
    """Store the weights of a folder changed, in the shards in which they are; the index lists what is left."""
    index = folder / "model.safetensors.index.json"
    weight_map = {}
    for shard in folder.glob("model-*.safetensors"):
        changed = dict(filter(None, (change(name, tensor) for name, tensor in load_file(shard).items())))
        save_file(changed, shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(changed, shard.name)
    index.write_text(json.dumps({**json.loads(index.read_text()), "weight_map": weight_map}))


def configure(folder: Path, file: str = "config.json", **keys: Any) -> None:
    (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **keys}))


PREFIXES: dict[str, Callable[[str], str]] = {
    "compiled": "_orig_mod.{}".format,
    "compiled with LM head": "_orig_mod.model.{}".format,
    "compiled by layer": lambda name: re.sub(r"^layers\.(\d+)\.", r"model.layers.\1._orig_mod.", name),
    "DDP": "module.model.{}".format,
    "peft, merged": "base_model.model.model.{}".format,
    "sentence-transformers": "0.auto_model.{}".format,
}


@pytest.mark.parametrize("kind", PREFIXES)
def test_weights_under_a_well_known_prefix_are_installed_under_their_own_names(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    resave(folder, lambda name, tensor: (PREFIXES[kind](name), tensor))
    install_base_model(str(folder), tmp_path / "base", tmp_path / "cache")
    assert_same_function(tmp_path / "base", random_llama())


def without_last_layer(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor] | None:
    return None if name.startswith("layers.1.") else (name, tensor)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: configure(f, num_hidden_layers=3), r"lacks 9 of the 29 weights .*, layers\.2\.input_layernorm"),
        (lambda f: resave(f, without_last_layer), r"lacks 9 of the 20 weights that its config\.json asks for"),
        (lambda f: resave(f, lambda name, tensor: (f"student.{name}", tensor)), r"lacks 20 of the 20 weights"),
        (lambda f: configure(f, num_hidden_layers=1), r"stores layers\.1\.[a-z_.]+, for which its config\.json has no"),
        (lambda f: configure(f, hidden_size=16), r"of shape .*, but config\.json asks for shape"),
        (lambda f: resave(f, lambda name, tensor: (name, tensor.to(torch.int8))), "is I8 of shape .*: name an unq"),
        (
            lambda f: next(f.glob("model-00002*")).write_bytes(b"version https://git-lfs"),
            "safetensors is damaged",
        ),
        (lambda f: (f / "model.safetensors.index.json").write_text("{}"), "has no weight_map: download it again"),
        (lambda f: (f / "model.safetensors.index.json").unlink(), r"has no weights in model\.safetensors"),
        (lambda f: configure(f, model_type="gpt2"), "is a gpt2 model, which effir cannot cut: choose one of llama"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "holds an adapter .*: merge it with peft"),
        (lambda f: configure(f, is_causal=False), "has bidirectional attention: name a causal decoder"),
        (lambda f: configure(f, auto_map={"AutoModel": "modeling_evil.Evil"}), r"has code of its own \(auto_map\)"),
        (lambda f: configure(f, hidden_act="none such"), "its config.json describes no model"),
    ],
    ids=[
        "a layer more in the config",
        "no last layer",
        "an unknown prefix",
        "a layer fewer in the config",
        "another size",
        "int8",
        "Git LFS",
        "an empty index",
        "no index",
        "another family",
        "an adapter",
        "bidirectional",
        "code of its own",
        "an unknown activation",
    ],
)
def test_weights_that_are_not_those_of_the_config_are_refused_before_anything_is_installed(
    change: Callable[[Path], None], says: str, folder: Path, tmp_path: Path
) -> None:
    change(folder)
    with pytest.raises(EffirError, match=says):
        install_base_model(str(folder), tmp_path / "base", tmp_path / "cache")
    assert os.listdir(tmp_path) == ["source"]


def test_all_parts_of_a_split_gguf_are_read_whichever_is_named(tmp_path: Path) -> None:
    model = tiny_gguf(tmp_path / "tiny.gguf", part_bytes=30_000)
    parts = sorted(path.name for path in tmp_path.glob("tiny-*.gguf"))
    assert len(parts) == 3, parts
    for part in (parts[0], parts[-1]):
        install_base_model(str(tmp_path / part), tmp_path / "base", tmp_path / "cache")
        assert_same_function(tmp_path / "base", model)
        assert not list((tmp_path / "base").glob("*.gguf"))


def test_a_split_gguf_without_one_of_its_parts_is_refused(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "tiny.gguf", part_bytes=30_000)
    first, second = sorted(tmp_path.glob("tiny-*.gguf"))[:2]
    second.unlink()
    with pytest.raises(EffirError, match=r"is one of 3 parts of a model, and tiny-00002-of-00003\.gguf is missing"):
        install_base_model(str(first), tmp_path / "base", tmp_path / "cache")
    first.rename(tmp_path / "renamed.gguf")
    with pytest.raises(EffirError, match=r"renamed\.gguf is one of 3 parts of a model: put all parts into one folder"):
        install_base_model(str(tmp_path / "renamed.gguf"), tmp_path / "base", tmp_path / "cache")
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"without": "blk.1."}, r"lacks 9 weights, (model\.)?layers\.1\.input_layernorm\.weight among them"),
        ({"without": "blk.0.ffn_down"}, r"lacks 1 weights, (model\.)?layers\.0\.mlp\.down_proj\.weight"),
        # 16 x 32 embeddings, 2 layers of 4 x 32 x 32, 3 x 32 x 64 and 2 x 32, and 32: 21,152
        ({"more": {"blk.0.attn_q.bias": 32}}, r"holds 21,184 weights, but the model .* has 21,152"),
        ({"more": {"rope_freqs.weight": 4}}, r"scales its rotary positions \(rope_freqs\.weight\)"),
        ({"scaling": "yarn"}, r"scales its rotary positions \(llama\.rope\.scaling\.type\)"),
        ({"kv_heads": None}, r"has no llama\.attention\.head_count_kv, without which transformers misreads it"),
    ],
    ids=[
        "a layer is missing",
        "a weight is missing",
        "a bias is left over",
        "Llama 3's RoPE",
        "YaRN",
        "no count of key heads",
    ],
)
def test_a_gguf_of_which_transformers_would_read_less_or_more_is_refused(
    settings: dict[str, Any], says: str, tmp_path: Path
) -> None:
    tiny_gguf(tmp_path / "tiny.gguf", **settings)
    with pytest.raises(EffirError, match=says):
        install_base_model(str(tmp_path / "tiny.gguf"), tmp_path / "base", tmp_path / "cache")
    assert not (tmp_path / "base").exists()


def tokenizer_of(folder: Path, end: str = "", more: Any = None, **tokens: Any) -> None:
    """Give a folder a tokenizer of 16 words, and of more, that ends texts with ``end``."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)} | (more or {}), unk_token="<unk>"))
    if end:
        words.post_processor = TemplateProcessing(single=f"$A {end}", special_tokens=[(end, WORDS.index(end))])
    PreTrainedTokenizerFast(tokenizer_object=words, **tokens).save_pretrained(folder)


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (
            {"eos_token": "</s>", "pad_token": "[PAD]"},
            r"its pad_token '\[PAD\]' id 16, but .* has 16 rows, 0 to 15",
        ),
        ({"eos_token": "<end>"}, "its eos_token '<end>' id 16"),
        ({"eos_token": "</s>", "more": {"m": 16, "n": 17}}, "has 2 tokens, 'm' among them, beyond the 16 rows"),
        ({"bos_token": "<s>"}, "has neither pad_token nor eos_token"),
        ({"pad_token": "<s>"}, "has no eos_token: set eos_token"),
        ({"eos_token": "</s>", "end": "<s>"}, "ends texts with <s>, but its eos_token is </s>, .*pooling to base"),
    ],
    ids=["pad beyond", "EOS beyond", "words beyond", "neither", "no EOS", "another end than EOS"],
)
def test_a_tokenizer_that_does_not_fit_the_model_is_refused(
    tokens: dict[str, Any], says: str, folder: Path, tmp_path: Path
) -> None:
    tokenizer_of(folder, **tokens)
    with pytest.raises(EffirError, match=says):
        install_base_model(str(folder), tmp_path / "base", tmp_path / "cache", appends_eos=True)
    assert not (tmp_path / "base").exists()


def test_another_end_than_eos_is_right_where_no_eos_is_appended_and_a_special_token_may_lie_beyond_the_embedding(
    folder: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    tokenizer_of(folder, eos_token="</s>", end="<s>")
    install_base_model(str(folder), base, tmp_path / "cache")
    assert AutoTokenizer.from_pretrained(base)("a").tokens()[-1] == "<s>"
    tokenizer_of(folder, eos_token="</s>", end="</s>", additional_special_tokens=["<image>"])  # as Gemma 3 has
    install_base_model(str(folder), base, tmp_path / "cache", appends_eos=True)
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert tokenizer("a").tokens()[-1] == "</s>"
    assert tokenizer.convert_tokens_to_ids("<image>") >= AutoConfig.from_pretrained(base).vocab_size


def test_a_retriever_is_told_which_settings_keep_its_pooling_and_prompts(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "1_Pooling").mkdir()
    kinds = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for kind, path in kinds.items()]
    prompts = {"prompts": {"query": "ask: ", "document": "text: "}}
    for name, content in {
        "modules.json": modules,
        "1_Pooling/config.json": {"pooling_mode": "mean"},
        "config_sentence_transformers.json": prompts,
    }.items():
        (folder / name).write_text(json.dumps(content))
    install_base_model(str(folder), tmp_path / "base", tmp_path / "cache")
    said = "is a retriever with pooling mean, query_prompt 'ask: ' and document_prompt 'text: ' of its own: "
    assert f"{said}retriever.pooling base and prompts null keep them" in capsys.readouterr().err
