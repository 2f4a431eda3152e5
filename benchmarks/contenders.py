"""The encoders to compare: effir's backends and the alternatives. Each function opens one, in a process of its own."""

from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.worker import Encode
from effir.encoding.backends import Backend, Precision, open_encoder
from effir.model.retriever import build_retriever, encode_documents, encode_queries, open_retriever

BATCH = 32  # sentence-transformers' own default


def effir(folder: Path, backend: Backend, precision: Precision, budget: int) -> tuple[Encode, Encode]:
    """Open a retriever folder by effir."""
    encoder = open_encoder(folder, backend, precision, budget)
    return encoder.documents, encoder.queries


def usual(folder: Path, max_tokens: int | None = None) -> tuple[Encode, Encode]:
    """Open a retriever folder by sentence-transformers in float32, with its own limit of tokens unless one is given."""
    model = open_retriever(folder)
    model.max_seq_length = max_tokens or model.max_seq_length
    return _by_sentence_transformers(model)


def uncompressed(base: Path, settings: dict[str, Any]) -> tuple[Encode, Encode]:
    """Make a retriever of the uncompressed base model, by sentence-transformers."""
    return _by_sentence_transformers(build_retriever(base, **settings))


def minilm(folder: Path, max_tokens: int) -> tuple[Encode, Encode]:
    """Open all-MiniLM-L6-v2, which has no prompts, by sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = max_tokens
    encode: Encode = partial(model.encode, batch_size=BATCH, show_progress_bar=False)
    return encode, encode


def llama_cpp(gguf: Path, settings: dict[str, Any], threads: int) -> tuple[Encode, Encode]:
    """Open a GGUF file in llama.cpp; texts are truncated and end in EOS, as for the retriever."""
    import llama_cpp

    limit = settings["max_tokens"]
    model = llama_cpp.Llama(
        str(gguf),
        embedding=True,
        n_ctx=2048,
        n_batch=2048,
        n_ubatch=2048,
        n_threads=threads,
        n_threads_batch=threads,
        pooling_type=llama_cpp.LLAMA_POOLING_TYPE_LAST,
        verbose=False,
    )

    def cut(prompt: str, text: str) -> str:
        tokens = model.tokenize((prompt + text).encode(), add_bos=False)[: limit - 1]
        return bytes(model.detokenize(tokens)).decode(errors="ignore") + "<|im_end|>"

    def encode(prompt: str, texts: list[str]) -> Any:
        chosen = [cut(prompt, text) for text in texts]
        batches = (chosen[start : start + BATCH // 2] for start in range(0, len(chosen), BATCH // 2))
        return [model.embed(batch, normalize=True) for batch in batches]

    return partial(encode, settings["document_prompt"]), partial(encode, settings["query_prompt"])


def _by_sentence_transformers(model: Any) -> tuple[Encode, Encode]:
    return partial(encode_documents, model, batch_size=BATCH), partial(encode_queries, model, batch_size=1)
