"""Batches by a budget of tokens instead of a count of texts, so that padding is rare and memory bounded."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def token_batches(lengths: Sequence[int] | Rows, budget: int) -> Iterator[Rows]:
    """Yield the rows of texts of like length, the longest first: at most ``budget`` tokens a batch, padding included.

    Every text is in one batch; one longer than the budget has a batch of its own.

    >>> [batch.tolist() for batch in token_batches([3, 9, 4, 1], budget=9)]
    [[1], [2, 0], [3]]
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    start = 0
    while start < len(order):
        count = max(1, budget // max(1, int(lengths[order[start]])))
        yield order[start : start + count]
        start += count


def padded_share(lengths: Sequence[int] | Rows, batches: Sequence[Rows]) -> float:
    """Return the share of padding among the tokens of some batches, each padded to its longest text.

    >>> padded_share([3, 9, 4, 1], [np.array([0, 2]), np.array([1, 3])])
    0.34615384615384615
    """
    known = np.asarray(lengths)
    read = sum(len(rows) * int(known[rows].max()) for rows in batches)
    return 1 - sum(int(known[rows].sum()) for rows in batches) / read
