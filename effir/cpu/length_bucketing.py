"""Length bucketing inside a training batch: texts of similar length together, less padding, the same loss.

oneDNN compiles its kernels anew for every shape, which takes as long as the bucket itself. So few shapes occur: sizes
are powers of two, lengths multiples of ``STEP``.
"""

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from effir.cpu.thread_parallel import Encode, encode_in_threads, workers

FORWARD_TOKENS = 128
"""The cost of one more forward on a CPU, in tokens. On a GPU it is never worth it."""
STEP = 8

Features = dict[str, Any]


def partition(lengths: list[int], extra: int) -> list[int]:
    """Split ascending ``lengths`` into runs that are padded to their longest; return the size of each, a power of two.

    The split has the least total of padded tokens plus ``extra`` per run.

    >>> partition([5, 5, 6, 40, 40], extra=10)
    [2, 1, 2]
    >>> partition([5, 5, 6, 40, 40], extra=1000)
    [1, 4]
    """
    best = [(0, 0)]  # for each number of texts: the least cost, and the start of the last run
    for end, longest in enumerate(lengths, start=1):
        starts = [end - (1 << power) for power in range(end.bit_length())]
        best.append(min((best[start][0] + longest * (end - start) + extra, start) for start in starts))
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
    if mask.device.type != "cpu":
        yield order, {**features, **_sliced(features, order, int(lengths[-1]))}
        return
    steps = -(-lengths // STEP) * STEP
    sizes = partition(steps.tolist(), FORWARD_TOKENS)
    for size, end in zip(sizes, accumulate(sizes), strict=True):
        rows = order[end - size : end]
        yield rows, {**features, **_sliced(features, rows, int(steps[end - 1]))}


def _sliced(features: Mapping[str, Any], rows: Tensor, width: int) -> Features:
    """Return ``rows`` of whatever is (batch, tokens), cut or padded with 0 to ``width``."""
    mask = features["attention_mask"]
    per_token = {k: v for k, v in features.items() if isinstance(v, Tensor) and v.shape == mask.shape}
    missing = max(0, width - mask.shape[1])
    return {k: pad(v[rows, :width], (0, missing)) for k, v in per_token.items()}


def over_buckets(model: nn.Module, encode: Encode, features: Features) -> tuple[Tensor, Tensor]:
    """Encode a batch bucket by bucket; return the rows of all buckets and, by them, which texts they were.

    ``encode`` maps the features of a bucket to a tensor. On a CPU each core computes its share of the texts.
    """
    by_length = torch.argsort(features["attention_mask"].sum(dim=1), stable=True)
    count = workers(model, len(by_length))
    shares, texts = list[list[Features]](), list[Tensor]()
    for rows in (by_length[start::count] for start in range(count)):
        found = list(buckets({**features, **_sliced(features, rows, features["attention_mask"].shape[1])}))
        shares.append([bucket for _, bucket in found])
        texts += [rows[of_bucket] for of_bucket, _ in found]

    def encode_share(share: list[Features]) -> Tensor:
        return torch.cat([encode(bucket) for bucket in share])

    encoded = encode_in_threads(model, encode_share, shares) if count > 1 else encode_share(shares[0])
    return encoded, torch.cat(texts)


class ByLength(nn.Module):
    """A SentenceTransformer for a loss, encoding by buckets."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model  # the trainer replaces this attribute by its wrapped model

    def forward(self, features: Features) -> Features:
        """Return ``sentence_embedding`` (batch, hidden), in the order of ``features``."""
        vectors, texts = over_buckets(self.model, lambda bucket: self.model(bucket)["sentence_embedding"], features)
        return {"sentence_embedding": vectors[torch.argsort(texts)]}
