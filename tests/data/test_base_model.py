import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModel, AutoTokenizer, LlamaConfig, LlamaModel, PreTrainedTokenizerFast

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


def tiny_gguf(path: Path) -> LlamaModel:
    """Write random_llama as GGUF, float32, with a byte-level tokenizer; llama.cpp's names, q and k rows permuted."""
    model, writer = random_llama(), gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
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
        writer.add_tensor(*gguf_tensor(name, weight.numpy()))
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


def gguf_tensor(name: str, weight: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]") -> tuple[str, object]:
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


def test_a_damaged_gguf_or_another_file_is_one_sentence(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "tiny.gguf").read_bytes()[:2000])
    with pytest.raises(EffirError, match=r"cut\.gguf is damaged or has an unknown architecture"):
        install_base_model(str(tmp_path / "cut.gguf"), tmp_path / "base", tmp_path / "cache")
    (tmp_path / "model.bin").write_bytes(b"a pickle")
    with pytest.raises(EffirError, match=r"model\.bin is not a model: name a \.gguf file, or a folder"):
        install_base_model(str(tmp_path / "model.bin"), tmp_path / "base", tmp_path / "cache")
    assert not (tmp_path / "base").exists()
