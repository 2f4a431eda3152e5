"""Measured cost: time side by side with the base model in one process, bytes, memory, and what arithmetic predicts."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from effir.errors import EffirError

Encoder = Callable[[list[str]], object]


class Shape(Protocol):
    """What a cost report asks of a model's shape; both counts are without the LM head."""

    def parameters(self, *, embeddings: bool) -> int:
        """Return the number of parameters, with or without the token embeddings."""

    def flops_per_token(self, context: int) -> float:
        """Return the FLOPs of one token in a text of ``context`` tokens."""


@dataclass(frozen=True)
class Timing:
    """Seconds that each round took to encode the same ``texts`` texts, in the rounds' order."""

    seconds: tuple[float, ...]
    texts: int

    @property
    def median(self) -> float:
        """Seconds of the median round."""
        return statistics.median(self.seconds)

    @property
    def low(self) -> float:
        """Seconds of the fastest round."""
        return min(self.seconds)

    @property
    def high(self) -> float:
        """Seconds of the slowest round."""
        return max(self.seconds)

    @property
    def texts_per_second(self) -> float:
        """Texts a second in the median round."""
        return self.texts / self.median


@dataclass(frozen=True)
class Speedup:
    """How many times as fast, round by round: the median, the least and the most."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """One model's cost: its shape, the bytes of its weights on disk, and its timings from :func:`compare_speed`."""

    shape: Shape
    bytes: int
    queries: Timing
    documents: Timing


@dataclass(frozen=True)
class Served:
    """Timings of two ways to serve: ``usual``, the base model by sentence-transformers as it comes, and ours."""

    usual_queries: Timing
    usual_documents: Timing
    queries: Timing
    documents: Timing


def compare_speed(
    candidates: Mapping[str, Encoder], texts: Sequence[str], *, rounds: int, warm_up: int = 2
) -> dict[str, Timing]:
    """Time every candidate on the same texts, taking turns: A, B, B, A, A, B, ... after ``warm_up`` texts each.

    Turns spread what else the machine does over all candidates, and swapped turns keep the second from always meeting
    the warmer cache. An encoder must return finished vectors (on the CPU), not a promise of them. For latency wrap it
    in :func:`one_at_a_time`. EffirError: no rounds, no texts.
    """
    if rounds < 1 or not texts:
        raise EffirError(f"{rounds} rounds and {len(texts)} texts are no timing: ask for 1 or more of both")
    for encode in candidates.values():
        _encode(encode, texts[:warm_up])
    seconds = take_turns({name: partial(_encode, encode, texts) for name, encode in candidates.items()}, rounds)
    return {name: Timing(tuple(took), len(texts)) for name, took in seconds.items()}


def _encode(encode: Encoder, texts: Sequence[str]) -> None:
    encode(list(texts))  # a copy, which it may spoil


def alternate(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """:func:`take_turns` after a warm-up each, which is the same work once more."""
    for run in candidates.values():
        run()
    return take_turns(candidates, rounds)


def take_turns(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time every candidate in turn, A, B, B, A, ...: seconds a round, in the rounds' order."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    turn = list(candidates)
    for _ in range(rounds):
        for name in turn:
            started = time.perf_counter()
            candidates[name]()
            seconds[name].append(time.perf_counter() - started)
        turn.reverse()
    return seconds


def one_at_a_time(encode: Encoder) -> Encoder:
    """Return an encoder that calls ``encode`` with a single text each time, as a search box does."""

    def each(texts: list[str]) -> None:
        for text in texts:
            encode([text])

    return each


def speedup(base: Timing, cut: Timing) -> Speedup:
    """Compare two timings of one :func:`compare_speed`: the ratios base / cut of rounds that ran side by side."""
    return ratio(base.seconds, cut.seconds)


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Speedup:
    """Compare two rows of :func:`alternate`, round by round.

    >>> ratio([2.0, 3.0, 4.0], [1.0, 1.0, 2.5])
    Speedup(median=2.0, low=1.6, high=3.0)
    """
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return Speedup(statistics.median(ratios), min(ratios), max(ratios))


def bytes_on_disk(folder: Path, pattern: str = "*.safetensors") -> int:
    """Add up the bytes of the files below ``folder`` that match ``pattern``; EffirError where there are none."""
    sizes = [path.stat().st_size for path in folder.rglob(pattern) if path.is_file()]
    if not sizes:
        raise EffirError(f"{folder} holds no {pattern}: run `dvc repro` to make it")
    return sum(sizes)


def cost_report(base: Measured, cut: Measured, served: Served, *, context: int, threads: int) -> dict[str, float]:
    """Return what ``metrics/cost.json`` holds, ``_base`` for the base model; ``context`` is the tokens a text has.

    ``kept_share`` is of the non-embedding parameters. Speed-ups are base over cut, above 1 is faster: what the cut
    alone buys, both models in the same runtime. ``served_…`` is what a user gets: the retriever in its own backend and
    precision, over the base model as it usually runs.
    """
    return {
        **_size(cut, context, ""),
        **_size(base, context, "_base"),
        "kept_share": cut.shape.parameters(embeddings=False) / base.shape.parameters(embeddings=False),
        "flops_speedup": base.shape.flops_per_token(context) / cut.shape.flops_per_token(context),
        **_spread("query_speedup", speedup(base.queries, cut.queries)),
        **_spread("document_speedup", speedup(base.documents, cut.documents)),
        "served_queries_per_second": served.queries.texts_per_second,
        "served_documents_per_second": served.documents.texts_per_second,
        **_spread("served_query_speedup", speedup(served.usual_queries, served.queries)),
        **_spread("served_document_speedup", speedup(served.usual_documents, served.documents)),
        "threads": threads,
    }


def _size(model: Measured, context: int, suffix: str) -> dict[str, float]:
    return {
        f"parameters{suffix}": model.shape.parameters(embeddings=True),
        f"parameters{suffix}_without_embeddings": model.shape.parameters(embeddings=False),
        f"bytes{suffix}": model.bytes,
        f"flops_per_token{suffix}": model.shape.flops_per_token(context),
        f"queries_per_second{suffix}": model.queries.texts_per_second,
        f"documents_per_second{suffix}": model.documents.texts_per_second,
    }


def _spread(name: str, ratio: Speedup) -> dict[str, float]:
    return {name: ratio.median, f"{name}_low": ratio.low, f"{name}_high": ratio.high}
