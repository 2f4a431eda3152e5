"""Compare variants with what one could use instead of a compressed model: BM25, or a small encoder."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effir.evaluation.significance import SIGNIFICANT, paired_test
from effir.evaluation.variant import Variant
from effir.files import read_json
from effir.lab.comparison import Comparison

SMALL_ENCODERS = Path("benchmarks/results/small_encoders.json")


@dataclass(frozen=True)
class Baseline:
    """A baseline on one set; ``p`` of the paired test against the best variant and ``speedup``, if they are known."""

    name: str
    ndcg: float
    p: float | None = None
    speedup: float = 0.0


def small_encoders(path: Path = SMALL_ENCODERS) -> list[Mapping[str, Any]]:
    """Read the rows of `benchmarks.small_encoders`; empty if the file is missing."""
    return list(read_json(path)["rows"]) if path.exists() else []


def advice(comparison: Comparison, encoders: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say for each set in one sentence whether BM25 or a small encoder would be the better choice."""
    found = []
    for name in comparison.sets:
        variants = [variant for variant in comparison.variants if name in variant.quality]
        best = max(variants, key=lambda variant: variant.quality[name]["ndcg_at_10"])
        if baselines := list(_baselines(best, name, encoders)):
            found.append(_sentence(best, name, baselines))
    return found


def _baselines(best: Variant, name: str, encoders: Sequence[Mapping[str, Any]]) -> Iterator[Baseline]:
    if "bm25_ndcg_at_10" in best.quality[name]:
        yield Baseline("BM25", best.quality[name]["bm25_ndcg_at_10"])
    for row in encoders:
        scores, own = row["scores"].get(name, {}), best.scores.get(name, {})
        if scores and scores.keys() == own.keys():
            ndcg, speedup = row["quality"][name]["ndcg_at_10"], row["document_speedup"]["median"]
            yield Baseline(row["name"], ndcg, paired_test(scores, own).p, speedup)


def _sentence(best: Variant, name: str, baselines: Sequence[Baseline]) -> str:
    ndcg, speed = best.quality[name]["ndcg_at_10"], best.cost.get("document_speedup", 0.0)
    # As far as the queries can tell; BM25 has no test.
    better = [each for each in baselines if each.ndcg > ndcg and (each.p is None or each.p <= SIGNIFICANT)]
    faster = [each for each in baselines if each.p is not None and each.p > SIGNIFICANT and each.speedup > speed]
    if better:
        verdict = f"{max(better, key=lambda each: each.ndcg).name} would be the better choice"
    elif faster:
        one = max(faster, key=lambda each: each.speedup)
        verdict = (
            f"{one.name} would be the better choice, because it is statistically indistinguishable (p = {one.p:.2g}) "
            f"and encodes documents {one.speedup:.1f} times as fast as the base model, {best.name} {speed:.1f} times"
        )
    else:
        verdict = f"{best.name} is the better choice"
    others = " and ".join(f"{each.name} {each.ndcg:.3f}" for each in baselines)
    return f"On {name}, {best.name} has nDCG@10 {ndcg:.3f}, {others}: {verdict}."
