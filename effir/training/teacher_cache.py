"""Let a teacher read the training texts, once: what it thinks of them is an artifact that every experiment reuses."""

import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from effir.data.examples import Example
from effir.encoding.backends import open_encoder
from effir.encoding.shards import Vectors, encode_shards
from effir.encoding.text_reader import POOLING
from effir.errors import EffirError
from effir.files import read_json, write_json, writing
from effir.model.prompt_config import read_prompt_config
from effir.training.opinions import DOCUMENTS, MANIFEST, PAIRS, QUERIES, digest, pairs_of

SHARD = 512
"""Texts, or pairs of them, that a killed run has to repeat at most."""
BATCH = 32
BATCH_TOKENS = 1024

Read = Callable[[list[str]], Vectors]


def cache_teacher_scores(
    source: str, folder: Path, examples: Sequence[Example], into: Path, *, max_tokens: int, work: Path
) -> str:
    """Let the model in ``folder`` read all texts of ``examples`` and keep its opinion as ``into``; returns its kind.

    A bi-encoder is asked for vectors of queries and documents, a cross-encoder for a score a pair of a query and one
    of its own documents. A text is cut at ``max_tokens``, a pair at twice as many, or at what the model can read. A
    killed run goes on from its last shard in ``work``. EffirError: a folder that is neither.
    """
    kind = kind_of(folder)
    asked = {example.query for example in examples}
    judged = {text for example in examples for text in (example.positive, *example.negatives)}
    pairs = {pair for example in examples for pair in pairs_of(example)}
    with writing(into) as draft:
        draft.mkdir()
        if kind == "bi-encoder":
            for name, texts in ((QUERIES, asked), (DOCUMENTS, judged)):
                _keep(draft, name, sorted(texts), _vectors(folder, name, max_tokens), work, np.float16)
        else:
            _keep(draft, PAIRS, sorted(pairs), _judge(folder, max_tokens), work, np.float32)
        write_json(draft / MANIFEST, {"source": source, "kind": kind, "max_tokens": max_tokens})
    shutil.rmtree(work, ignore_errors=True)
    return kind


def kind_of(folder: Path) -> str:
    """Tell ``bi-encoder`` and ``cross-encoder`` apart by their files; EffirError where it is neither.

    sentence-transformers saves both as modules and says which in a file of its own, which older folders lack.
    """
    own, config = (
        read_json(folder / name) if (folder / name).is_file() else {}
        for name in ("config_sentence_transformers.json", "config.json")
    )
    classifies = any("SequenceClassification" in name for name in config.get("architectures") or ())
    if own.get("model_type") == "CrossEncoder" or (classifies and not (folder / "modules.json").is_file()):
        if len(config.get("id2label") or [1]) > 1:
            raise EffirError(f"{folder} sorts into several classes: training.teacher must give one score a pair")
        return "cross-encoder"
    if (folder / "modules.json").is_file():
        return "bi-encoder"
    raise EffirError(
        f"{folder} is no teacher: training.teacher must name a sentence-transformers folder or a cross-encoder"
    )


def is_retriever(folder: Path) -> bool:
    """Tell whether a bi-encoder is a decoder that effir cuts, with nothing that our encoder leaves out."""
    from effir.model.modeling import FAMILIES

    try:
        read_prompt_config(folder, str(folder))
    except EffirError:
        return False
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    pooling = folder / "1_Pooling/config.json"
    pooled = read_json(pooling).get("pooling_mode") if pooling.is_file() else None
    return str(config.get("model_type")).removeprefix("effir_") in FAMILIES and pooled in POOLING


def _vectors(folder: Path, name: str, max_tokens: int) -> Read:
    if is_retriever(folder):  # one of ours: by our own encoder, a few times as fast
        encoder = open_encoder(folder, "torch", "auto", BATCH_TOKENS)
        encoder.reader.tokenizer.enable_truncation(min(max_tokens, encoder.reader.max_tokens))
        return encoder.queries if name == QUERIES else encoder.documents
    from sentence_transformers import SentenceTransformer

    model: Any = SentenceTransformer(str(folder))
    model.max_seq_length = min(max_tokens, model.max_seq_length or max_tokens)
    prompt = {QUERIES: "query", DOCUMENTS: "document"}[name]
    named = {"prompt_name": prompt} if prompt in model.prompts else {}
    return partial(model.encode, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False, **named)


def _judge(folder: Path, max_tokens: int) -> Read:
    import torch
    from sentence_transformers import CrossEncoder as Judge

    model: Any = Judge(str(folder))
    model.max_seq_length = min(2 * max_tokens, model.max_seq_length or 2 * max_tokens)
    plain = torch.nn.Identity()  # logits: the loss has a softmax of its own

    def judge(pairs: list[str]) -> Vectors:
        texts = [tuple(json.loads(pair)) for pair in pairs]
        found = model.predict(texts, batch_size=BATCH, activation_fn=plain, show_progress_bar=False)
        return np.asarray(found, dtype=np.float32).reshape(-1, 1)

    return judge


def _keep(into: Path, name: str, texts: Sequence[str], read: Read, work: Path, dtype: Any) -> None:
    """Write what ``read`` gives for each text, and the digests by which it is found again."""
    place = work / name
    shards = list(encode_shards(((str(i), "", text) for i, text in enumerate(texts)), read, place, SHARD))
    shape = (len(texts), shards[0].dimension)
    kept = np.lib.format.open_memmap(into / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
    for shard in shards:
        start = shard.number * SHARD
        kept[start : start + shard.documents] = np.load(shard.vectors(place))
    kept.flush()
    (into / f"{name}.txt").write_text("".join(f"{digest(text)}\n" for text in texts), encoding="ascii")
