#!/usr/bin/env bash
# gguf 0.19.0, transformers 5.23.0: opening a GGUF parses its vocabulary token by token in Python, three times for a model.
#
# Seen: `GGUFReader` maps the file into memory, but makes numpy views for each token and each merge. For a vocabulary of Llama 3's
# size (128,256 tokens, a merge for nearly each) that took 19 s on a busy core; reading the 7.8 MB took 0.01 s. The model has two
# layers of width 8. `AutoModelForCausalLM.from_pretrained` opens the file twice and `AutoTokenizer` once: 50 s together.
# Expected: an array of strings is read in a second, and once for a model.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3.11 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0 2> pip.err || { cat pip.err; exit 1; }
env/bin/python - <<'END'
import time
from itertools import islice, product
from pathlib import Path

import gguf
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaModel
from transformers.utils import logging

logging.disable_progress_bar()
TOKENS = 128_256
letters = "abcdefghijklmnopqrstuvwxyz"
pairs = [a + b for a, b in product(letters, letters)]
quads = [a + b for a, b in islice(product(pairs, pairs), TOKENS - len(letters) - len(pairs))]
tokens = [*letters, *pairs, *quads]
merges = [f"{pair[0]} {pair[1]}" for pair in pairs]
merges += [f"{quad[:2]} {quad[2:]}" for quad in quads]

config = LlamaConfig(vocab_size=TOKENS, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
w = gguf.GGUFWriter("big.gguf", "llama")
w.add_context_length(128)
w.add_embedding_length(8)
w.add_block_count(2)
w.add_feed_forward_length(16)
w.add_head_count(2)
w.add_head_count_kv(2)
w.add_layer_norm_rms_eps(1e-6)
w.add_rope_dimension_count(4)
w.add_vocab_size(TOKENS)
w.add_tokenizer_model("gpt2")
w.add_token_list(tokens)
w.add_token_types([1] * TOKENS)
w.add_token_merges(merges)
w.add_bos_token_id(0)
w.add_eos_token_id(1)
for name, tensor in LlamaModel(config).state_dict().items():
    w.add_tensor(names.get_name(f"model.{name}", (".weight",)), tensor.numpy())
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()

began = time.perf_counter()
size = len(Path("big.gguf").read_bytes())
read = time.perf_counter() - began
began = time.perf_counter()
gguf.GGUFReader("big.gguf")
parsed = time.perf_counter() - began
print(f"{size / 1e6:.1f} MB: read in {read:.3f} s, parsed in {parsed:.1f} s ({parsed / read:.0f} times), {len(merges):,} merges")

opened = []


class Counted(gguf.GGUFReader):
    def __init__(self, path):
        opened.append(path)
        super().__init__(path)


gguf.GGUFReader = Counted
began = time.perf_counter()
AutoModelForCausalLM.from_pretrained(".", gguf_file="big.gguf")
model = len(opened)
AutoTokenizer.from_pretrained(".", gguf_file="big.gguf")
print(f"opened {model} times for the model, {len(opened) - model} for the tokenizer, in {time.perf_counter() - began:.1f} s")
assert parsed > 20 * read
assert (model, len(opened)) == (2, 3)
END
