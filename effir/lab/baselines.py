"""Whether one should take a baseline, BM25 or a small encoder, instead of a compressed model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from effir.evaluation.baselines import BM25, baselines_in, title
from effir.evaluation.variant import Variant
from effir.lab.comparison import Comparison


@dataclass(frozen=True)
class Baseline:
    """A baseline on one set, against one variant.

    ``low`` and ``high`` bound the variant's nDCG@10 less the baseline's. ``faster`` is how many times as many documents
    a second it encodes as the variant in float32; None if it was not timed, and for BM25, which encodes nothing.
    """

    name: str
    ndcg: float
    low: float
    high: float
    faster: float | None = None

    @property
    def better(self) -> bool:
        """Whether it has a significantly higher nDCG@10."""
        return self.high < 0

    @property
    def alike(self) -> bool:
        """Whether the two are statistically indistinguishable."""
        return self.low <= 0 <= self.high

    @property
    def cheaper(self) -> bool:
        """Whether it costs less: BM25 needs no model."""
        return self.name == title(BM25) or (self.faster or 0) > 1


def baselines_of(metrics: Mapping[str, float], cost: Mapping[str, float]) -> list[Baseline]:
    """List the baselines to which a variant's ``metrics/<set>.json`` has a tested difference."""
    found = []
    for name in baselines_in(metrics):
        if f"vs_{name}_low" in metrics:
            speeds = cost.get(f"{name}_document_speedup"), cost.get("document_speedup")
            faster = speeds[0] / speeds[1] if speeds[0] and speeds[1] else None
            bounds = metrics[f"vs_{name}_low"], metrics[f"vs_{name}_high"]
            found.append(Baseline(title(name), metrics[f"{name}_ndcg_at_10"], *bounds, faster))
    return found


def better_choice(baselines: Sequence[Baseline]) -> Baseline | None:
    """Choose the baseline to take instead: a better one, else the fastest indistinguishable one that costs less.

    None if the variant is the better choice.
    """
    better = [each for each in baselines if each.better]
    alike = [each for each in baselines if each.alike and each.cheaper]
    if better:
        return max(better, key=lambda each: each.ndcg)
    return max(alike, key=lambda each: (each.faster or 0, each.ndcg), default=None)


def reason(chosen: Baseline) -> str:
    """Say why a baseline is the better choice, as the end of a sentence."""
    speed = f"encodes documents {chosen.faster:.1f} times as fast" if chosen.faster else "needs no model"
    if chosen.better:
        return "its nDCG@10 is significantly higher" + (f", and it {speed}" if chosen.faster or chosen.cheaper else "")
    return f"it is statistically indistinguishable and {speed}"


def advice(comparison: Comparison) -> list[str]:
    """Say for each set in one sentence whether a baseline would be a better choice than the best variant."""
    found = []
    for name in comparison.sets:
        variants = [variant for variant in comparison.variants if name in variant.quality]
        best = max(variants, key=lambda variant: variant.quality[name]["ndcg_at_10"])
        if baselines := baselines_of(best.quality[name], best.cost):
            found.append(_sentence(best, name, baselines))
    return found


def _sentence(best: Variant, name: str, baselines: Sequence[Baseline]) -> str:
    chosen, ndcg = better_choice(baselines), best.quality[name]["ndcg_at_10"]
    verdict = f"{best.name} is the better choice"
    if chosen:
        verdict = f"{chosen.name} would be the better choice, because {reason(chosen)}"
    others = " and ".join(f"{each.name} {each.ndcg:.3f}" for each in baselines)
    return f"On {name}, {best.name} has nDCG@10 {ndcg:.3f}, {others}: {verdict}."
