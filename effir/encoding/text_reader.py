"""How a retriever reads texts: its tokenizer, prompts, length limit and pooling. Needs no torch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from effir.errors import EffirError
from effir.files import read_json, require
from effir.model.prompt_config import POOLING

STREAMED = 1024  # texts tokenised at a time


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
        return cls._of(
            Tokenizer.from_file(str(require(folder / "tokenizer.json"))),
            read_json(folder / "config_sentence_transformers.json")["prompts"],
            read_json(folder / "tokenizer_config.json")["model_max_length"],
            read_json(folder / "1_Pooling/config.json")["pooling_mode"],
        )

    @classmethod
    def of(cls, model: Any) -> "TextReader":
        """Read a SentenceTransformer in memory."""
        tokenizer = Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str())
        return cls._of(tokenizer, model.prompts, model.max_seq_length, model[1].pooling_mode)

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

    def cut(self, texts: Iterable[str], prompt: str) -> Iterator[bool]:
        """Yield for each text whether :meth:`read` leaves a part of it out; texts are streamed."""
        before, stream = self.prompts.get(prompt, ""), iter(texts)
        while chunk := [before + text for text in islice(stream, STREAMED)]:
            yield from (bool(found.overflowing) for found in self.tokenizer.encode_batch(chunk))

    def unread(self, texts: Sequence[str], prompt: str) -> list[int]:
        """List the texts of which the model reads nothing: their tokens are those of an empty text."""
        nothing, *read = self.read(["", *texts], prompt)
        return [i for i, ids in enumerate(read) if ids == nothing]

    def truncated(self, text: str, prompt: str) -> str:
        """Return the start of a text that :meth:`read` keeps."""
        before = self.prompts.get(prompt, "")
        ends = [end for _, end in self.tokenizer.encode(before + text).offsets]
        return text[: max(0, max(ends, default=0) - len(before))]

    def mean_tokens(self, documents: Sequence[str]) -> int:
        """Return the mean number of tokens of the documents, truncated to ``max_tokens``, with EOS."""
        return round(sum(map(len, self.read(documents, "document"))) / len(documents))
