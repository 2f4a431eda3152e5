"""Measured cost: time side by side with the base model in one process, bytes on disk, parameters and FLOPs."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    def texts_per_second(self) -> float:
        """Texts a second in the median round."""
        return self.texts / statistics.median(self.seconds)


def compare_speed(
    candidates: Mapping[str, Encoder], texts: Sequence[str], *, rounds: int, warm_up: int = 2
) -> dict[str, Timing]:
    """Time every candidate on the same texts, taking turns: A, B, B, A, A, B, ... after ``warm_up`` texts each.

    Turns spread the other load of the machine over all candidates, and swapped turns give each the warmer cache as
    often. An encoder must return finished vectors on the CPU. To measure latency, wrap it in :func:`one_at_a_time`.
    EffirError if there are no rounds or no texts.
    """
    if rounds < 1 or not texts:
        raise EffirError(f"{rounds} rounds and {len(texts)} texts cannot be timed: ask for 1 or more of both")
    for encode in candidates.values():
        encode(list(texts[:warm_up]))
    runs = {name: lambda encode=encode: encode(list(texts)) for name, encode in candidates.items()}  # may change a list
    return {name: Timing(tuple(took), len(texts)) for name, took in alternate(runs, rounds, warm=False).items()}


def alternate(
    candidates: Mapping[str, Callable[[], object]], rounds: int, *, warm: bool = True
) -> dict[str, list[float]]:
    """Time every candidate in turn, A, B, B, A, ..., after running each once: seconds of each round, in order."""
    for run in candidates.values() if warm else ():
        run()
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
    """Return an encoder that calls ``encode`` with one text at a time, as a search box does."""

    def each(texts: list[str]) -> None:
        for text in texts:
            encode([text])

    return each


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """Compare the seconds of rounds that ran side by side: the speed-up of the median round, and the extremes.

    >>> ratio([2.0, 3.0, 4.0], [1.0, 1.0, 2.5])
    {'median': 2.0, 'low': 1.6, 'high': 3.0}
    """
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def bytes_on_disk(folder: Path, pattern: str = "*.safetensors") -> int:
    """Add up the bytes of the files below ``folder`` that match ``pattern``; EffirError if there are none."""
    sizes = [path.stat().st_size for path in folder.rglob(pattern) if path.is_file()]
    if not sizes:
        raise EffirError(f"{folder} holds no {pattern}: name a folder with the weights of a model")
    return sum(sizes)


def cost_report(
    shapes: Mapping[str, Shape],
    weights: Mapping[str, int],
    queries: Mapping[str, Timing],
    documents: Mapping[str, Timing],
    *,
    context: int,
    threads: int,
    bfloat16: Mapping[str, float],
) -> dict[str, float]:
    """Return what ``metrics/cost.json`` holds; keys that end in ``_base`` are of the base model.

    ``shapes`` and ``weights`` (bytes on disk) are of the models ``base`` and ``cut``; ``context`` is the tokens of a
    text. ``queries`` and ``documents``, from :func:`compare_speed`, time both in the same runtime: ``document_speedup``
    and ``query_speedup`` are the effect of the cut alone. ``served_…`` is what a user gets: the retriever in its own
    backend and precision, ``served``, over the base model by sentence-transformers' defaults, ``usual``. A speed-up
    above 1 is faster. ``kept_share`` is of the non-embedding parameters. ``bfloat16`` says in
    which precision ``served`` computes, and what decided that.
    """
    report: dict[str, float] = {}
    for name, suffix in (("cut", ""), ("base", "_base")):
        report |= {
            f"parameters{suffix}": shapes[name].parameters(embeddings=True),
            f"parameters{suffix}_without_embeddings": shapes[name].parameters(embeddings=False),
            f"bytes{suffix}": weights[name],
            f"flops_per_token{suffix}": shapes[name].flops_per_token(context),
            f"queries_per_second{suffix}": queries[name].texts_per_second,
            f"documents_per_second{suffix}": documents[name].texts_per_second,
        }
    return {
        **report,
        "kept_share": report["parameters_without_embeddings"] / report["parameters_base_without_embeddings"],
        "flops_speedup": report["flops_per_token_base"] / report["flops_per_token"],
        **_speedup("query_speedup", queries, "base", "cut"),
        **_speedup("document_speedup", documents, "base", "cut"),
        "served_queries_per_second": queries["served"].texts_per_second,
        "served_documents_per_second": documents["served"].texts_per_second,
        **_speedup("served_query_speedup", queries, "usual", "served"),
        **_speedup("served_document_speedup", documents, "usual", "served"),
        "threads": threads,
        **bfloat16,
    }


def encoder_cost(
    name: str, queries: Mapping[str, Timing], documents: Mapping[str, Timing], *, parameters: int, weights: int
) -> dict[str, float]:
    """Return what ``metrics/cost.json`` holds of the baseline ``name``, which took turns with the models above.

    Its speed-ups are over ``base``, as ``document_speedup`` is. ``parameters`` are without the token embeddings,
    ``weights`` bytes on disk.
    """
    return {
        f"{name}_queries_per_second": queries[name].texts_per_second,
        f"{name}_documents_per_second": documents[name].texts_per_second,
        **_speedup(f"{name}_query_speedup", queries, "base", name),
        **_speedup(f"{name}_document_speedup", documents, "base", name),
        f"{name}_parameters_without_embeddings": parameters,
        f"{name}_bytes": weights,
    }


def _speedup(name: str, timings: Mapping[str, Timing], slow: str, fast: str) -> dict[str, float]:
    found = ratio(timings[slow].seconds, timings[fast].seconds)
    return {name: found["median"], f"{name}_low": found["low"], f"{name}_high": found["high"]}
