"""Score the training texts by a teacher once, so that every experiment reuses the outputs."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effir.data.examples import Example
from effir.encoding.backends import open_limited
from effir.encoding.encoder import Vectors
from effir.encoding.shards import Encoder, encode_shards, reporting
from effir.errors import EffirError
from effir.files import read_json, text_digest, write_json, writing
from effir.training.teacher import DOCUMENTS, MANIFEST, PAIRS, QUERIES, pairs_of

SHARD = 512
"""Texts or pairs that a killed run repeats at most."""
BATCH = 32


def cache_teacher_scores(
    source: str, folder: Path, examples: Sequence[Example], into: Path, *, max_tokens: int, work: Path
) -> str:
    """Write the outputs of the model in ``folder`` for all texts of ``examples`` to ``into``; return its kind.

    A bi-encoder gives vectors of queries and documents, a cross-encoder a score per pair of a query and a document of
    its example. Texts are truncated to ``max_tokens``, pairs to twice that, or to the limit of the model. A killed run
    continues after its last shard in ``work``. EffirError for a folder that is neither.
    """
    kind = kind_of(folder)
    queries = {example.query for example in examples}
    documents = {text for example in examples for text in (example.positive, *example.negatives)}
    pairs = {pair for example in examples for pair in pairs_of(example)}
    with writing(into) as draft:
        draft.mkdir()
        if kind == "bi-encoder":
            encoder = open_limited(folder, "auto", max_tokens)
            _write_outputs(draft, QUERIES, sorted(queries), encoder.queries, work, np.float16)
            _write_outputs(draft, DOCUMENTS, sorted(documents), encoder.documents, work, np.float16)
        else:
            _write_outputs(draft, PAIRS, sorted(pairs), _cross_encoder(folder, max_tokens), work, np.float32)
        write_json(draft / MANIFEST, {"source": source, "kind": kind, "max_tokens": max_tokens})
    shutil.rmtree(work, ignore_errors=True)
    return kind


def kind_of(folder: Path) -> str:
    """Tell ``bi-encoder`` and ``cross-encoder`` apart by their files; EffirError for anything else.

    sentence-transformers saves both as modules. A file of its own says which, and is missing in older folders.
    """
    own, config = (_read_if_there(folder / name) for name in ("config_sentence_transformers.json", "config.json"))
    has_modules = (folder / "modules.json").is_file()
    classifies = any("SequenceClassification" in name for name in config.get("architectures") or ())
    if own.get("model_type") == "CrossEncoder" or (classifies and not has_modules):
        if len(config.get("id2label") or [1]) > 1:
            raise EffirError(f"{folder} is a classifier of several classes: a teacher must give one score per pair")
        return "cross-encoder"
    if has_modules:
        return "bi-encoder"
    raise EffirError(f"{folder} cannot be a teacher: name a sentence-transformers folder or a cross-encoder")


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _cross_encoder(folder: Path, max_tokens: int) -> Encoder:
    import torch
    from sentence_transformers import CrossEncoder

    model: Any = CrossEncoder(str(folder))
    model.max_seq_length = min(2 * max_tokens, model.max_seq_length or 2 * max_tokens)
    logits = torch.nn.Identity()  # the loss applies its own softmax

    def score(pairs: list[str]) -> Vectors:
        texts = [tuple(json.loads(pair)) for pair in pairs]
        scores = model.predict(texts, batch_size=BATCH, activation_fn=logits, show_progress_bar=False)
        return np.asarray(scores, dtype=np.float32).reshape(-1, 1)

    return reporting(score)


def _write_outputs(into: Path, name: str, texts: Sequence[str], encode: Encoder, work: Path, dtype: Any) -> None:
    """Write the output of ``encode`` for each text, and the digests by which texts are looked up."""
    place, entries = work / name, ((str(i), "", text) for i, text in enumerate(texts))
    shards = list(encode_shards(entries, encode, place, SHARD, total=len(texts)))
    shape = len(texts), shards[0].dimension
    outputs = np.lib.format.open_memmap(into / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
    for shard in shards:
        start = shard.number * SHARD
        outputs[start : start + shard.documents] = np.load(shard.vectors(place))
    outputs.flush()
    (into / f"{name}.txt").write_text("".join(f"{text_digest(text)}\n" for text in texts), encoding="ascii")
