"""Encode by sentence-transformers what effir's own encoder does not run: BERT and T5, Dense modules, other poolings."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from effir.encoding.encoder import CHUNK, Report, TextEncoder, Vectors
from effir.encoding.text_reader import TextReader
from effir.errors import EffirError
from effir.files import read_json

BATCH = 32
DENSE = (None, "SentenceTransformer")  # the model_type of a folder that gives one vector per text


def open_library(folder: Path, precision: str, batch_size: int = BATCH) -> "LibraryEncoder":
    """Open a sentence-transformers folder, on the GPU if there is one; EffirError if the library cannot open it.

    ``auto`` is float32, on a GPU the precision in which the weights are stored. ``batch_size`` is the
    number of texts in a forward pass.
    """
    import torch
    from sentence_transformers import SentenceTransformer

    import effir.model.checkpoint  # noqa: F401  registers the cut architectures with transformers

    _check_kind(folder)
    stored = precision == "auto" and torch.cuda.is_available()
    dtype = "auto" if stored else "bfloat16" if precision == "bfloat16" else "float32"
    try:
        model = SentenceTransformer(str(folder), model_kwargs={"dtype": dtype}, local_files_only=True)
        return LibraryEncoder(model, TextReader.of_library(model), batch_size)
    except Exception as error:  # whatever a foreign folder makes the libraries raise
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise EffirError(f"sentence-transformers cannot open {folder} ({reason}): name another model") from error


def _check_kind(folder: Path) -> None:
    path = folder / "config_sentence_transformers.json"
    kind = read_json(path).get("model_type") if path.is_file() else None
    if kind not in DENSE:
        raise EffirError(f"{folder} is a {kind}, which gives no single vector for a text: name a SentenceTransformer")


class LibraryEncoder(TextEncoder):
    """Encodes texts by a SentenceTransformer, and scales the vectors to length 1."""

    def __init__(self, model: Any, reader: TextReader, batch_size: int = BATCH) -> None:
        super().__init__(reader, lambda batches: iter(()), 0)
        self.model, self.batch_size = model, batch_size

    def parameters_without_embeddings(self) -> int:
        """Count the parameters of all modules, without the token embeddings."""
        import torch

        is_table = (torch.nn.Embedding, torch.nn.EmbeddingBag)
        with suppress(AttributeError, NotImplementedError):  # static embeddings are no transformer
            table = self.model[0].model.get_input_embeddings()
            return self._count() - sum(int(p.numel()) for p in table.parameters())
        return self._count() - sum(m.weight.numel() for m in self.model.modules() if isinstance(m, is_table))

    def _count(self) -> int:
        return sum(int(parameter.numel()) for parameter in self.model.parameters())

    def limit(self, max_tokens: int) -> None:
        """Truncate texts to at most ``max_tokens`` tokens, if the model does not truncate them earlier."""
        super().limit(max_tokens)
        with suppress(AttributeError):  # static embeddings read whole texts
            self.model.max_seq_length = min(max_tokens, self.reader.max_tokens)

    def warm(self, texts: int, tokens: int, seconds: float = 10) -> None:
        """Encode one text: the library prepares nothing else."""
        self.queries(["warm"])

    def plain(self, texts: Sequence[str], prompt: str) -> Vectors:
        """Encode texts as the library does, (texts, dimension) float32, without scaling them."""
        return self._encoded(texts, prompt, normalize_embeddings=False)

    def _encode(self, texts: Sequence[str], prompt: str, report: Report) -> Vectors:
        if not texts:
            raise ValueError("there are no texts to encode")
        found = []
        for start in range(0, len(texts), CHUNK):
            found.append(self._encoded(texts[start : start + CHUNK], prompt, normalize_embeddings=True))
            report(len(found[-1]))
        return np.concatenate(found)

    def _encoded(self, texts: Sequence[str], prompt: str, **settings: Any) -> Vectors:
        encode = self.model.encode_query if prompt == "query" else self.model.encode_document
        before, usual = self.reader.prompts[prompt], {"batch_size": self.batch_size, "show_progress_bar": False}
        return np.ascontiguousarray(encode(list(texts), prompt=before, **usual, **settings), dtype=np.float32)
