#!/usr/bin/env bash
# transformers 5.23.0: of a GGUF in parts, `from_pretrained` reads the named part only, and raises no error.
#
# Seen, where part 1 of 2 ends within the layers: 8 of the 9 weights of part 2 are initialized anew, the matrices at random (other
# values at each seed). A warning is logged, the table of MISSING keys. It does not name part 2, and `split.count`, which part 1
# holds, is not read. Seen, where part 2 holds `output.weight` alone: no warning. The absent tensor is taken for tied
# embeddings, so `lm_head` is the input embedding, not the weight in part 2. Expected: all parts are read, or an error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3.11 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0 2> pip.err || { cat pip.err; exit 1; }
env/bin/python - <<'END'
import logging

import torch
from gguf import MODEL_ARCH, GGUFReader, GGUFWriter, get_tensor_name_map
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as library

said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
library.add_handler(handler)
library.disable_progress_bar()

torch.manual_seed(0)
made = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4))
state = dict(made.state_dict())
state["lm_head.weight"] = state.pop("lm_head.weight")  # last in the file


def write(path, tensors_per_part):
    c, names = made.config, get_tensor_name_map(MODEL_ARCH.LLAMA, made.config.num_hidden_layers)
    w = GGUFWriter(path, "llama", split_max_tensors=tensors_per_part)
    w.add_name("tiny")
    w.add_vocab_size(c.vocab_size)
    w.add_context_length(c.max_position_embeddings)
    w.add_block_count(c.num_hidden_layers)
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_rope_dimension_count(c.head_dim)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    for name, tensor in state.items():
        if "q_proj" in name or "k_proj" in name:  # the order of rows that llama.cpp's converter writes
            tensor = tensor.reshape(c.num_attention_heads, 2, -1, c.hidden_size).swapaxes(1, 2).reshape(tensor.shape)
        w.add_tensor(names.get_name(name, (".weight",)), tensor.numpy())
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def load(file, seed=1):
    said.clear()
    torch.manual_seed(seed)
    loaded = AutoModelForCausalLM.from_pretrained(".", gguf_file=file).state_dict()
    return loaded, sorted(name for name in state if not torch.equal(loaded[name], state[name]))


write("whole.gguf", 0)
_, other = load("whole.gguf")
print(f"whole file: {len(other)} of {len(state)} tensors differ, warnings: {len(said)}")
assert not other and not said

write("two.gguf", 12)
assert GGUFReader("two-00001-of-00002.gguf").get_field("split.count").contents() == 2
first, other = load("two-00001-of-00002.gguf", seed=1)
second, _ = load("two-00001-of-00002.gguf", seed=2)
print(f"part 1 of 2: {len(other)} of {len(state)} tensors differ, warnings: {len(said)}, keys said to be MISSING: {said[0].count('| MISSING |')}")
assert "model.layers.1.mlp.down_proj.weight" in other
assert not torch.equal(first["model.layers.1.mlp.down_proj.weight"], second["model.layers.1.mlp.down_proj.weight"])
assert len(said) == 1 and "MISSING" in said[0] and "00002" not in said[0] and "split" not in said[0]

write("last.gguf", len(state) - 1)
loaded, other = load("last-00001-of-00002.gguf")
print(f"part 2 is output.weight: {other} differ, warnings: {len(said)}")
assert other == ["lm_head.weight"] and not said
assert torch.equal(loaded["lm_head.weight"], state["model.embed_tokens.weight"])
END
