"""Texts to unit vectors, whatever computes them: tokenised in a thread of its own, batched by tokens."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from effir.encoding.batches import Rows, token_batches
from effir.encoding.text_reader import TextReader

Tokens = NDArray[np.int64]
Vectors = NDArray[np.float32]
Batch = tuple[Tokens, Rows]
"""Token ids (batch, tokens), padded on the right, and lengths (batch,)."""
Forward = Callable[[Sequence[Batch]], Sequence[Vectors]]
"""Batches to each one's unit vectors (batch, hidden); a runtime may work on several at a time."""

CHUNK = 1024
"""Texts tokenised at a time, while those before them are encoded."""
STEP = 8
"""Tokens to a multiple of which a small batch is padded: what computes prepares its kernels for each shape that it has
not seen, which takes longer than a query does."""


class TextEncoder:
    """A retriever's texts to vectors; a batch has at most ``budget`` tokens, padding included.

    Up to ``few`` short texts wait no longer one by one than together.
    """

    def __init__(self, reader: TextReader, forward: Forward, budget: int, few: int = 1) -> None:
        self.reader = reader
        self.forward = forward
        self.budget = budget
        self.few = few

    def documents(self, texts: Sequence[str]) -> Vectors:
        """Turn documents, one or more, into unit vectors, shape (texts, hidden)."""
        return self._encode(texts, "document")

    def queries(self, texts: Sequence[str]) -> Vectors:
        """Turn queries, one or more, into unit vectors, shape (texts, hidden)."""
        return self._encode(texts, "query")

    def warm(self, texts: int, tokens: int, seconds: float = 10) -> None:
        """Encode nothing in the shapes of lone texts and of batches of more than ``few``, so that none is new any more.

        Up to ``texts`` texts, or one batch, and ``tokens`` tokens. A large model has seen enough after ``seconds``.
        """
        widths, until = range(STEP, tokens + 1, STEP), time.monotonic() + seconds
        counts = (1, *range(self.few + 1, max(texts, self.few + 1) + 1))
        shapes = [(count, width) for count in counts for width in widths if count * width <= self.budget]
        for count, width in shapes:
            if time.monotonic() > until:
                return
            self.forward([(np.zeros((count, width), np.int64), np.full(count, width, np.int64))])

    def _encode(self, texts: Sequence[str], prompt: str) -> Vectors:
        if not texts:
            raise ValueError("there are no texts to encode")
        if len(texts) <= CHUNK:  # a thread would only cost a lone query its time
            return self._vectors(self.reader.read(texts, prompt))
        chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
        with ThreadPoolExecutor(1) as thread:
            read = thread.map(lambda chunk: self.reader.read(chunk, prompt), chunks)
            return np.concatenate([self._vectors(ids) for ids in read])

    def _vectors(self, ids: Sequence[Sequence[int]]) -> Vectors:
        lengths = np.array([len(text) for text in ids], dtype=np.int64)
        batches = list(token_batches(lengths, self.budget))
        found = self.forward([(padded(ids, rows, lengths, self.budget), lengths[rows]) for rows in batches])
        vectors = np.empty((len(ids), found[0].shape[1]), np.float32)
        for rows, values in zip(batches, found, strict=True):
            vectors[rows] = values
        return vectors


def padded(ids: Sequence[Sequence[int]], rows: Rows, lengths: Rows, budget: int = 0) -> Tokens:
    """Lay out some texts as (batch, tokens); what pads them is any token, for no real one looks to its right.

    Where a ``budget`` of tokens has room, to a multiple of ``STEP``.

    >>> padded([[5], [6, 7], [8, 9, 9]], np.array([1, 0]), np.array([1, 2, 3]))
    array([[6, 7],
           [5, 0]])
    >>> padded([[5], [6, 7]], np.array([1, 0]), np.array([1, 2]), budget=99).shape
    (2, 8)
    """
    longest = int(lengths[rows].max())
    width = max(longest, min(-(-longest // STEP) * STEP, budget // len(rows)))
    tokens = np.zeros((len(rows), width), dtype=np.int64)
    for row, text in enumerate(rows):
        tokens[row, : lengths[text]] = ids[text]
    return tokens
