"""Texts to unit vectors, whatever runtime computes them: tokenised in a second thread, batched by tokens."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from effir.encoding.text_reader import TextReader
from effir.errors import EffirError
from effir.model.auto_precision import Decision

Tokens = NDArray[np.int64]
Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]
Batch = tuple[Tokens, Rows]
"""Token ids (batch, tokens), padded on the right, and lengths (batch,)."""
Forward = Callable[[Sequence[Batch]], Iterable[Vectors]]
"""Maps batches to the unit vectors (batch, hidden) of each, in order. A runtime may compute several at a time."""
Report = Callable[[int], object]
"""Is called with the number of texts encoded since the last call."""

CHUNK = 1024  # texts tokenised at a time, while the previous ones are encoded
STEP = 8
"""Batches are padded to a multiple of this number of tokens: a runtime prepares its kernels for every new shape, which
takes longer than a query, and as long as a batch."""


def _ignore(count: int) -> None:
    """Report nothing."""


@dataclass
class TextEncoder:
    """Encodes texts by a retriever. A batch has at most ``budget`` tokens, padding included.

    Up to ``few`` short texts take no longer one by one than in one batch. ``computes`` says in which precision.
    """

    reader: TextReader
    forward: Forward
    budget: int
    few: int = 1
    computes: Decision = field(default_factory=lambda: Decision("float32"))
    about: str = ""
    """What the user should know of how texts are encoded; empty if the vectors are sentence-transformers' own."""

    def documents(self, texts: Sequence[str], report: Report = _ignore) -> Vectors:
        """Encode at least one document as unit vectors, shape (texts, hidden)."""
        return self._encode(texts, "document", report)

    def queries(self, texts: Sequence[str], report: Report = _ignore) -> Vectors:
        """Encode at least one query as unit vectors, shape (texts, hidden)."""
        return self._encode(texts, "query", report)

    def limit(self, max_tokens: int) -> None:
        """Truncate texts to at most ``max_tokens`` tokens, if the model does not truncate them earlier."""
        self.reader.tokenizer.enable_truncation(min(max_tokens, self.reader.max_tokens))

    def warm(self, texts: int, tokens: int, seconds: float = 10) -> None:
        """Prepare the kernels for single texts and for batches of more than ``few`` texts.

        Shapes have at most ``texts`` texts, or one batch, and ``tokens`` tokens. Stop after ``seconds``.
        """
        widths, until = range(STEP, tokens + 1, STEP), time.monotonic() + seconds
        counts = (1, *range(self.few + 1, max(texts, self.few + 1) + 1))
        shapes = [(count, width) for count in counts for width in widths if count * width <= self.budget]
        for count, width in shapes:
            if time.monotonic() > until:
                return
            list(self.forward([(np.zeros((count, width), np.int64), np.full(count, width, np.int64))]))

    def _encode(self, texts: Sequence[str], prompt: str, report: Report) -> Vectors:
        if not texts:
            raise ValueError("there are no texts to encode")
        if len(texts) <= CHUNK:  # a thread would only slow a single query down
            return self._vectors(self.reader.read(texts, prompt), report)
        chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
        with ThreadPoolExecutor(1) as thread:
            read = thread.map(lambda chunk: self.reader.read(chunk, prompt), chunks)
            return np.concatenate([self._vectors(ids, report) for ids in read])

    def _vectors(self, ids: Sequence[Sequence[int]], report: Report) -> Vectors:
        lengths = np.array([len(text) for text in ids], dtype=np.int64)
        if not lengths.all():  # there is no token to pool: its vector would be zero
            raise EffirError("a text has no token for this model, so it has no vector: remove or fill empty texts")
        rows_of = list(token_batches(lengths, self.budget))
        batches = [(padded(ids, rows, lengths), lengths[rows]) for rows in rows_of]
        found = []
        for rows, part in zip(rows_of, self.forward(batches), strict=True):
            found.append(part)
            report(len(rows))
        return np.concatenate(found)[np.argsort(np.concatenate(rows_of))]


def token_batches(lengths: Sequence[int] | Rows, budget: int) -> Iterator[Rows]:
    """Yield the rows of texts of similar length, the longest first: at most ``budget`` tokens a batch, with padding.

    Padding is rare and memory is bounded. A text longer than the budget has a batch of its own.

    >>> [batch.tolist() for batch in token_batches([3, 12, 4, 1], budget=16)]
    [[1], [2, 0], [3]]
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    start = 0
    while start < len(order):
        count = max(1, budget // width_of(int(lengths[order[start]])))
        yield order[start : start + count]
        start += count


def width_of(longest: int) -> int:
    """Return the width of a batch whose longest text has ``longest`` tokens.

    >>> width_of(1), width_of(8), width_of(9)
    (8, 8, 16)
    """
    return -(-longest // STEP) * STEP


def padded(ids: Sequence[Sequence[int]], rows: Rows, lengths: Rows) -> Tokens:
    """Arrange some texts as (batch, tokens). Any token can pad: no real token attends to what stands on its right.

    >>> padded([[5], [6, 7], [8, 9, 9]], np.array([1, 0]), np.array([1, 2, 3]))
    array([[6, 7, 0, 0, 0, 0, 0, 0],
           [5, 0, 0, 0, 0, 0, 0, 0]])
    """
    tokens = np.zeros((len(rows), width_of(int(lengths[rows].max()))), dtype=np.int64)
    for row, text in enumerate(rows):
        tokens[row, : lengths[text]] = ids[text]
    return tokens
