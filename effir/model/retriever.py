"""A checkpoint as a sentence-transformers retriever: prompts, appended EOS, pooling, saving and loading."""

import shutil
from collections.abc import Sequence
from functools import partial
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
from effir.model.prompt_config import POOLING

# Without this, sentence-transformers wraps each text in the chat template of an instruct model: a system prompt comes
# first, and the last token is not EOS.
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
    """Build a retriever from a Hugging Face checkpoint, base or cut: transformer, pooling, L2 norm (EffiR, sec. 3).

    Texts are truncated to ``max_tokens`` tokens, the appended EOS included. Vectors have the model's hidden size.
    Without ``eos`` the tokenizer of the checkpoint is not changed, for a model that was a retriever before.
    """
    transformer = Transformer(
        str(checkpoint),
        model_kwargs={"dtype": "float32"},
        config_kwargs={"use_cache": False},
        max_seq_length=max_tokens,
        modality_config=PLAIN_TEXT,
        module_output_name="token_embeddings",
    )
    tokenizer = transformer.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = tokenizer.truncation_side = "right"  # as effir's encoder does
    if eos:
        append_eos(tokenizer)
    transformer.model.config.use_cache = False
    hidden = transformer.model.config.hidden_size
    mode = next(theirs for theirs, ours in POOLING.items() if ours == pooling)
    return SentenceTransformer(
        modules=[transformer, Pooling(hidden, pooling_mode=mode), Normalize()],
        prompts={"query": query_prompt, "document": document_prompt},
        similarity_fn_name="cosine",
    )


def append_eos(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make the tokenizer itself append EOS to each text, so that every loader of the folder does it.

    Tokens before a text (a BOS) are kept. EffirError if the tokenizer has no EOS token.
    """
    if tokenizer.eos_token is None:
        raise EffirError("the tokenizer has no EOS token to pool: set `eos_token` in tokenizer_config.json")
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)
    before = tokenizer.convert_ids_to_tokens(framed[:start])
    special = [*before, tokenizer.eos_token]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[*before, "$A", tokenizer.eos_token],
        pair=[*before, "$A", "$B", tokenizer.eos_token],
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in dict.fromkeys(special)],
    )


def copy_with_eos(base: Path, into: Path, eos: bool) -> None:
    """Copy the checkpoint ``base``; with ``eos`` its tokenizer appends EOS to each text, as a retriever's does."""
    with writing(into) as draft:
        shutil.copytree(base, draft)
        if eos:
            tokenizer = AutoTokenizer.from_pretrained(base)
            append_eos(tokenizer)
            tokenizer.save_pretrained(draft)


def save_retriever(model: SentenceTransformer, into: Path) -> None:
    """Write a folder; ``SentenceTransformer(folder, trust_remote_code=True)`` opens it without effir."""
    model.tokenizer.init_kwargs.pop("local_files_only", None)  # or the saved bytes depend on HF_HUB_OFFLINE
    with writing(into) as draft:
        model.save_pretrained(str(draft), create_model_card=False)


def open_retriever(folder: Path) -> SentenceTransformer:
    """Open a saved retriever; MissingError if there is none."""
    require(folder / "modules.json")
    return SentenceTransformer(str(folder))


def encode_documents(
    model: SentenceTransformer, texts: Sequence[str], batch_size: int, prompt: str = "document"
) -> NDArray[np.float32]:
    """Encode texts to unit vectors, shape (texts, hidden), by sentence-transformers' own loop."""
    vectors = model.encode(list(texts), prompt_name=prompt, batch_size=batch_size, show_progress_bar=False)
    return np.ascontiguousarray(vectors, dtype=np.float32)


encode_queries = partial(encode_documents, prompt="query")
