"""Length bucketing inside a training batch: texts of similar length together, less padding, the same loss."""

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

FORWARD_TOKENS = 96
"""The cost of one more forward on a CPU, in tokens. On a GPU it is never worth it."""

Features = dict[str, Any]


def partition(lengths: list[int], extra: int) -> list[int]:
    """Split ascending ``lengths`` into runs that are padded to their longest; return the size of each run.

    The split has the least total of padded tokens plus ``extra`` per run.

    >>> partition([5, 5, 6, 40, 40], extra=10)
    [3, 2]
    >>> partition([5, 5, 6, 40, 40], extra=1000)
    [5]
    """
    best = [(0, 0)]  # for each number of texts: the least cost, and the start of the last run
    for end, longest in enumerate(lengths, start=1):
        best.append(min((best[start][0] + longest * (end - start) + extra, start) for start in range(end)))
    sizes, end = [], len(lengths)
    while end:
        start = best[end][1]
        sizes.append(end - start)
        end = start
    return sizes[::-1]


def buckets(features: Mapping[str, Any]) -> Iterator[tuple[Tensor, Features]]:
    """Split tokenised texts (batch, tokens), padded on the right, into the rows of each bucket and their features.

    On a GPU there is one bucket.
    """
    mask: Tensor = features["attention_mask"]
    lengths, order = torch.sort(mask.sum(dim=1), stable=True)
    sizes = partition(lengths.tolist(), FORWARD_TOKENS) if mask.device.type == "cpu" else [len(mask)]
    for size, end in zip(sizes, accumulate(sizes), strict=True):
        rows, longest = order[end - size : end], int(lengths[end - 1])
        sliced = {k: v[rows, :longest] for k, v in features.items() if isinstance(v, Tensor) and v.shape == mask.shape}
        yield rows, {**features, **sliced}


class ByLength(nn.Module):
    """A SentenceTransformer for a loss, encoding by buckets."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model  # the trainer replaces this attribute by its wrapped model

    def forward(self, features: Features) -> Features:
        """Return ``sentence_embedding`` (batch, hidden), in the order of ``features``."""
        encoded = [(rows, self.model(bucket)["sentence_embedding"]) for rows, bucket in buckets(features)]
        order = torch.cat([rows for rows, _ in encoded])
        return {"sentence_embedding": torch.cat([vectors for _, vectors in encoded])[torch.argsort(order)]}
