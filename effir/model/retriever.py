"""A checkpoint as a sentence-transformers retriever: prompts, appended EOS, pooling, saving and loading."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerBase

import effir.model.checkpoint  # noqa: F401  registers the cut architectures with transformers
from effir.errors import EffirError
from effir.files import require, writing

POOLING = {"last": "lasttoken", "mean": "mean"}
# Left to itself, sentence-transformers wraps each text in the chat template that instruct models have: a system prompt
# before it, and another last token than EOS to pool.
PLAIN_TEXT = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}


def build_retriever(
    checkpoint: Path,
    *,
    pooling: Literal["last", "mean"],
    query_prompt: str,
    document_prompt: str,
    max_tokens: int,
    eos: bool = True,
) -> SentenceTransformer:
    """Make a retriever of a Hugging Face checkpoint, base or cut: transformer, pooling, L2 norm (EffiR, sec. 3).

    Texts are cut at ``max_tokens`` tokens, the appended EOS included. Vectors have the model's hidden size. Without
    ``eos`` texts begin and end as the checkpoint's tokenizer has it: one that was a retriever before knows its own end.
    """
    transformer = Transformer(
        str(checkpoint),
        model_kwargs={"dtype": "float32"},
        config_kwargs={"use_cache": False},
        max_seq_length=max_tokens,
        modality_config=PLAIN_TEXT,
        module_output_name="token_embeddings",
    )
    pad_right(transformer.tokenizer)
    if eos:
        append_eos(transformer.tokenizer)
    transformer.model.config.use_cache = False
    hidden = transformer.model.config.hidden_size
    return SentenceTransformer(
        modules=[transformer, Pooling(hidden, pooling_mode=POOLING[pooling]), Normalize()],
        prompts={"query": query_prompt, "document": document_prompt},
        similarity_fn_name="cosine",
    )


def pad_right(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let texts be padded, with EOS where the tokenizer has no token for it, and cut behind: so effir encodes them."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = tokenizer.truncation_side = "right"


def append_eos(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the tokenizer itself end each text with EOS, so that every loader of the folder gets it right.

    What the tokenizer puts before a text (a BOS) stays. EffirError where it has no EOS token.
    """
    if tokenizer.eos_token is None:
        raise EffirError("the tokenizer has no EOS token, which EffiR pools: set `eos_token` in tokenizer_config.json")
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    before = tokenizer.convert_ids_to_tokens(framed[: _find(framed, bare)])
    special = [*before, tokenizer.eos_token]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[*before, "$A", tokenizer.eos_token],
        pair=[*before, "$A", "$B", tokenizer.eos_token],
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in dict.fromkeys(special)],
    )


def copy_with_eos(base: Path, into: Path, eos: bool) -> None:
    """Copy the checkpoint ``base``; with ``eos`` its tokenizer ends each text with EOS, as a retriever's does."""
    with writing(into) as draft:
        shutil.copytree(base, draft)
        if eos:
            tokenizer = AutoTokenizer.from_pretrained(base)
            append_eos(tokenizer)
            tokenizer.save_pretrained(draft)


def save_retriever(model: SentenceTransformer, into: Path) -> None:
    """Write a folder; ``SentenceTransformer(folder, trust_remote_code=True)`` opens it where effir is not installed."""
    model.tokenizer.init_kwargs.pop("local_files_only", None)  # it is saved: the bytes would tell of HF_HUB_OFFLINE
    with writing(into) as draft:
        model.save_pretrained(str(draft), create_model_card=False)


def open_retriever(folder: Path) -> SentenceTransformer:
    """Open a saved retriever; EffirError where there is none."""
    require(folder / "modules.json")
    return SentenceTransformer(str(folder))


def encode_documents(model: SentenceTransformer, texts: Sequence[str], batch_size: int) -> NDArray[np.float32]:
    """Turn documents into unit vectors, shape (texts, hidden), as sentence-transformers does by itself."""
    return _encode(model, texts, "document", batch_size)


def encode_queries(model: SentenceTransformer, texts: Sequence[str], batch_size: int) -> NDArray[np.float32]:
    """Turn queries into unit vectors, shape (texts, hidden), as sentence-transformers does by itself."""
    return _encode(model, texts, "query", batch_size)


def _encode(model: SentenceTransformer, texts: Sequence[str], prompt: str, batch_size: int) -> NDArray[np.float32]:
    vectors = model.encode(list(texts), prompt_name=prompt, batch_size=batch_size, show_progress_bar=False)
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _find(framed: list[int], bare: list[int]) -> int:
    return next(i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)
