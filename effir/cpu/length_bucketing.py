"""Texts of like length together, within a training batch: less padding, and the very same loss."""

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

PART_TOKENS = 96
"""What one more forward costs on a CPU, in tokens; on a GPU it is never worth it."""

Features = dict[str, Any]


def partition(lengths: list[int], extra: int) -> list[int]:
    """Cut ascending ``lengths`` into runs, each padded to its longest; return the size of each run.

    The total of padded tokens plus ``extra`` a run is the least there is.

    >>> partition([5, 5, 6, 40, 40], extra=10)
    [3, 2]
    >>> partition([5, 5, 6, 40, 40], extra=1000)
    [5]
    """
    best = [(0, 0)]  # for each number of texts: least cost, and where its last run begins
    for end, longest in enumerate(lengths, start=1):
        best.append(min((best[start][0] + longest * (end - start) + extra, start) for start in range(end)))
    sizes, end = [], len(lengths)
    while end:
        start = best[end][1]
        sizes.append(end - start)
        end = start
    return sizes[::-1]


def parts(features: Mapping[str, Any]) -> Iterator[tuple[Tensor, Features]]:
    """Split tokenised texts (batch, tokens), padded on the right, into rows of like length and their features.

    On a GPU there is one part, which is the whole.
    """
    mask: Tensor = features["attention_mask"]
    lengths, order = torch.sort(mask.sum(dim=1), stable=True)
    sizes = partition(lengths.tolist(), PART_TOKENS) if mask.device.type == "cpu" else [len(mask)]
    ends = list(accumulate(sizes))
    for size, end in zip(sizes, ends, strict=True):
        rows, longest = order[end - size : end], int(lengths[end - 1])
        yield rows, {name: _cut(value, mask.shape, rows, longest) for name, value in features.items()}


def _cut(value: Any, shape: torch.Size, rows: Tensor, longest: int) -> Any:
    return value[rows, :longest] if isinstance(value, Tensor) and value.shape == shape else value


class ByLength(nn.Module):
    """A SentenceTransformer that a loss calls as it calls any other, and that pads less."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model  # so named, the trainer finds it and puts its own wrapped one in

    def forward(self, features: Features) -> Features:
        """Return ``sentence_embedding`` (batch, hidden), in the order of ``features``."""
        found = [(rows, self.model(part)["sentence_embedding"]) for rows, part in parts(features)]
        order = torch.cat([rows for rows, _ in found])
        return {"sentence_embedding": torch.cat([vectors for _, vectors in found])[torch.argsort(order)]}
