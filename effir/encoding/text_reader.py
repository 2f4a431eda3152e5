"""How a retriever reads texts: its tokenizer, prompts, length limit and pooling. Needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from effir.errors import EffirError
from effir.files import require
from effir.model.plain_decoder import UNLIMITED, max_tokens_of, pooling_of
from effir.model.prompt_config import POOLING, prompts_of, retrieval_prompts, transformer_of


@dataclass(frozen=True)
class TextReader:
    """Turns texts into token ids as sentence-transformers does; ``pooling`` is ``last`` or ``mean``."""

    tokenizer: Tokenizer
    prompts: Mapping[str, str]
    max_tokens: int
    pooling: str

    @classmethod
    def open(cls, folder: Path) -> "TextReader":
        """Read a retriever folder; EffirError if it is missing or its pooling is not supported."""
        require(folder / "modules.json")
        tokenizer = Tokenizer.from_file(str(require(transformer_of(folder) / "tokenizer.json")))
        return cls._of(tokenizer, retrieval_prompts(*prompts_of(folder)), max_tokens_of(folder), pooling_of(folder))

    @classmethod
    def of(cls, model: Any) -> "TextReader":
        """Read a SentenceTransformer in memory; EffirError if its pooling is not supported."""
        own = cls.of_library(model)
        return cls._of(own.tokenizer, own.prompts, own.max_tokens, model[1].pooling_mode)

    @classmethod
    def of_library(cls, model: Any) -> "TextReader":
        """Read a SentenceTransformer that pools by itself; EffirError if its tokenizer has no fast implementation."""
        fast = getattr(model.tokenizer, "backend_tokenizer", model.tokenizer)
        if not isinstance(fast, Tokenizer):
            raise EffirError(f"its tokenizer, a {type(model.tokenizer).__name__}, has no fast version")
        limit = model.max_seq_length
        most = UNLIMITED if limit is None or limit > UNLIMITED else int(limit)
        tokenizer, side = Tokenizer.from_str(fast.to_str()), getattr(model.tokenizer, "truncation_side", "right")
        tokenizer.enable_truncation(most, direction=side)
        tokenizer.no_padding()
        return cls(tokenizer, retrieval_prompts(model.prompts, model.default_prompt_name), most, "")

    @classmethod
    def _of(cls, tokenizer: Tokenizer, prompts: Mapping[str, str], max_tokens: int, mode: str) -> "TextReader":
        if mode not in POOLING:
            raise EffirError(f"the retriever's pooling {mode!r} is not supported: use lasttoken or mean")
        tokenizer.enable_truncation(max_tokens)
        tokenizer.no_padding()
        return cls(tokenizer, prompts, max_tokens, POOLING[mode])

    def read(self, texts: Sequence[str], prompt: str) -> list[list[int]]:
        """Return the token ids of each text after the prompt of that name, truncated to ``max_tokens``, with EOS."""
        before = self.prompts.get(prompt, "")
        return [found.ids for found in self.tokenizer.encode_batch([before + text for text in texts])]

    def truncated(self, text: str, prompt: str) -> str:
        """Return the part of a text that :meth:`read` keeps: its start, unless the tokenizer cuts on the left."""
        before = self.prompts.get(prompt, "")
        spans = [(start, end) for start, end in self.tokenizer.encode(before + text).offsets if end > start]
        left = (self.tokenizer.truncation or {}).get("direction") == "left"
        first = max(0, min(spans, default=(0, 0))[0] - len(before)) if left else 0
        return text[first : max(0, max((end for _, end in spans), default=0) - len(before))]

    def mean_tokens(self, documents: Sequence[str]) -> int:
        """Return the mean number of tokens of the documents, truncated to ``max_tokens``, with EOS."""
        return round(sum(map(len, self.read(documents, "document"))) / len(documents))
