#!/usr/bin/env bash
# sentence-transformers 6.2.0: `encode_document` never uses a prompt named `passage` or `corpus`, which its docstring promises.
#
# Seen: a model made or loaded with the prompts `query` and `passage` gets an empty prompt `document` beside them. The docstring
# takes the first of `document`, `passage` and `corpus` that there is, so it takes the empty one: passages are encoded without
# their prompt, queries with theirs. No warning. `encode(..., prompt_name="passage")` uses it. Expected: the prompt `passage`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3.11 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 sentence-transformers==6.2.0 2> pip.err || { cat pip.err; exit 1; }
env/bin/python - <<'END'
import warnings

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers

warnings.simplefilter("error")
words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["?", "query", "passage", "a", "text", ":"])}, unk_token="?"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
torch.manual_seed(0)
made = SentenceTransformer(
    modules=[StaticEmbedding(words, embedding_dim=8)], prompts={"query": "query: ", "passage": "passage: "}
)
made.save_pretrained("saved")
for model, name in ((made, "made"), (SentenceTransformer("saved"), "loaded")):
    found = model.encode_document("a text")
    bare, prompted = model.encode("a text", prompt=""), model.encode("a text", prompt_name="passage")
    print(f"{name}: prompts {model.prompts}; encode_document is without a prompt: {np.array_equal(found, bare)}")
    assert model.prompts["document"] == ""
    assert np.array_equal(found, bare) and np.abs(found - prompted).max() > 0.1
    assert np.array_equal(model.encode_query("a text"), model.encode("a text", prompt_name="query"))
assert '"passage"' in SentenceTransformer.encode_document.__doc__
END
