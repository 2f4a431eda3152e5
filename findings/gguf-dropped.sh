#!/usr/bin/env bash
# transformers 5.23.0: a Llama GGUF with more, or less, than the usual keys and tensors is loaded as another model, without a warning.
#
# Seen: biases of attention (`blk.N.attn_q.bias` and the like), `rope_freqs.weight` (how llama.cpp's converter writes the
# RoPE scaling of Llama 3.1) and `llama.rope.scaling.*` are not used. The config says `attention_bias=False` and the default RoPE.
# Without `llama.attention.head_count_kv`, which the GGUF specification calls optional, the rows of q and k stay in llama.cpp's
# order. The hidden states are off by 4 to 5 (plain file: 0), nothing is logged at the default level, and `unexpected_keys` and
# `missing_keys` are empty. Expected: the same hidden states, or a warning or an error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3.11 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0 2> pip.err || { cat pip.err; exit 1; }
env/bin/python - <<'END'
import logging

import torch
from gguf import MODEL_ARCH, GGUFWriter, RopeScalingType, get_tensor_name_map
from transformers import AutoModel, LlamaConfig, LlamaModel
from transformers.utils import logging as library

said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
library.add_handler(handler)
library.disable_progress_bar()
ids = torch.arange(60)[None]


def make(**options):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.3, **options)
    model = LlamaModel(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


@torch.no_grad()
def check(what, made, extra=lambda w: None, kv_heads=True):
    c, names = made.config, get_tensor_name_map(MODEL_ARCH.LLAMA, made.config.num_hidden_layers)
    w = GGUFWriter("tiny.gguf", "llama")
    w.add_name("tiny")
    w.add_vocab_size(c.vocab_size)
    w.add_context_length(c.max_position_embeddings)
    w.add_block_count(c.num_hidden_layers)
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    if kv_heads:
        w.add_head_count_kv(c.num_key_value_heads)
    w.add_rope_dimension_count(c.head_dim)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    extra(w)
    for name, tensor in made.state_dict().items():
        if "q_proj" in name or "k_proj" in name:  # the order of rows that llama.cpp's converter writes
            tensor = tensor.reshape(c.num_attention_heads, 2, -1, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
        w.add_tensor(names.get_name("model." + name, (".weight", ".bias")), tensor.numpy())
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    said.clear()
    loaded, info = AutoModel.from_pretrained(".", gguf_file="tiny.gguf", output_loading_info=True)
    off = (loaded(ids).last_hidden_state - made(ids).last_hidden_state).abs().max().item()
    print(f"{what}: hidden states differ by {off:.2g}, warnings: {len(said)}, unexpected keys: {len(info['unexpected_keys'])}")
    assert not said and not info["unexpected_keys"] and not info["missing_keys"]
    assert loaded.config.attention_bias is False and loaded.config.rope_parameters["rope_type"] == "default"
    return off


def scaling(w):
    w.add_rope_scaling_type(RopeScalingType.LINEAR)
    w.add_rope_scaling_factor(8.0)


llama3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
plain, scaled = make(), make(rope_parameters=llama3)
factors = (plain.rotary_emb.inv_freq / scaled.rotary_emb.inv_freq).numpy()  # as the converter writes them
assert check("plain", plain) < 1e-4
assert check("no head_count_kv", plain, kv_heads=False) > 0.1
assert check("biases of attention", make(attention_bias=True)) > 0.1
assert check("rope_freqs.weight", scaled, lambda w: w.add_tensor("rope_freqs.weight", factors)) > 0.1
assert check("rope.scaling.*", make(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0}), scaling) > 0.1
END
