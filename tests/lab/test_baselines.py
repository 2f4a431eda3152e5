"""Whether a baseline is the better choice; expected choices follow from the bounds and speeds given here."""

import pytest

from effir.evaluation.variant import Variant
from effir.lab.baselines import Baseline, advice, baselines_of, better_choice
from effir.lab.comparison import compare, over_seeds

QUERIES = [f"q{i}" for i in range(10)]
BETTER, ALIKE, WORSE = (-0.3, -0.1), (-0.1, 0.1), (0.1, 0.3)
"""Bounds of the variant's nDCG@10 less the baseline's."""


def variant(
    name: str, ndcg: float, speedup: float = 2.0, small_speedup: float = 9.0, **bounds: tuple[float, float]
) -> Variant:
    """A variant with the bounds of its differences to baselines, each 0.2 better, equal or 0.2 worse in the mean."""
    metrics = {"ndcg_at_10": ndcg}
    for key, (low, high) in bounds.items():
        metrics |= {f"{key}_ndcg_at_10": ndcg - (low + high) / 2, f"vs_{key}": (low + high) / 2}
        metrics |= {f"vs_{key}_low": low, f"vs_{key}_high": high}
    cost = {"document_speedup": speedup} | ({"small_document_speedup": small_speedup} if "small" in bounds else {})
    return Variant(name, {}, {"apidocs": metrics}, {"apidocs": dict.fromkeys(QUERIES, ndcg)}, cost, {"apidocs": "abc"})


def said(*variants: Variant) -> str:
    (sentence,) = advice(compare(variants))
    return sentence


def test_the_best_variant_is_the_choice_if_every_baseline_is_lower() -> None:
    found = said(variant("a", 0.5, bm25=BETTER), variant("b", 0.6, bm25=WORSE, small=WORSE))
    assert found == "On apidocs, b has nDCG@10 0.600, BM25 0.400 and small 0.400: b is the better choice."


def test_bm25_is_the_choice_if_it_is_better_or_as_good_because_it_needs_no_model() -> None:
    better = "BM25 0.700: BM25 would be the better choice, because its nDCG@10 is significantly higher, and it needs no"
    assert better in said(variant("a", 0.5, bm25=BETTER))
    alike = "BM25 would be the better choice, because it is statistically indistinguishable and needs no model."
    assert said(variant("a", 0.5, bm25=ALIKE)).endswith(alike)


def test_a_small_encoder_is_the_choice_if_it_is_significantly_better_or_as_good_and_faster() -> None:
    better = (
        "small would be the better choice, because its nDCG@10 is significantly higher, and it encodes documents 4.5"
    )
    assert better in said(variant("a", 0.5, bm25=WORSE, small=BETTER))  # 9 / 2 times as fast
    alike = "small would be the better choice, because it is statistically indistinguishable and encodes documents 4.5"
    assert alike in said(variant("a", 0.5, bm25=WORSE, small=ALIKE))
    slower = said(variant("a", 0.5, small_speedup=1.5, bm25=WORSE, small=ALIKE))
    assert slower.endswith("small 0.500: a is the better choice.")


@pytest.mark.parametrize(
    ("bounds", "chosen"),
    [
        ({"bm25": ALIKE, "small": ALIKE}, "small"),  # both cost less, and it was timed as faster
        ({"bm25": BETTER, "small": ALIKE}, "BM25"),
        ({"bm25": BETTER, "small": (-0.5, -0.3)}, "small"),  # both are better, it by more
        ({"bm25": WORSE}, None),
        ({}, None),
    ],
)
def test_of_several_baselines_the_best_of_the_better_ones_is_chosen(
    bounds: dict[str, tuple[float, float]], chosen: str | None
) -> None:
    one = variant("a", 0.5, **bounds)
    found = better_choice(baselines_of(one.quality["apidocs"], one.cost))
    assert (found.name if found else None) == chosen


def test_a_baseline_without_a_tested_difference_is_no_choice() -> None:
    assert baselines_of({"ndcg_at_10": 0.5, "bm25_ndcg_at_10": 0.7}, {}) == []
    assert advice(compare([Variant("a", {}, {"apidocs": {"ndcg_at_10": 0.5}}, {}, {}, {})])) == []


def test_an_encoder_that_was_not_timed_is_not_said_to_be_faster() -> None:
    metrics = variant("a", 0.5, small=ALIKE).quality["apidocs"]
    assert baselines_of(metrics, {}) == [Baseline("small", 0.5, -0.1, 0.1)]
    assert better_choice(baselines_of(metrics, {})) is None


def test_bounds_over_seeds_are_the_means_of_the_seeds_bounds() -> None:
    seeds = [variant("a", 0.5, bm25=(0.0, 0.2)), variant("b", 0.5, bm25=(0.1, 0.4))]
    changed = [Variant(**{**vars(one), "params": {"training.seed": i}}) for i, one in enumerate(seeds)]
    (joined,) = over_seeds(changed)
    (found,) = baselines_of(joined.quality["apidocs"], joined.cost)
    assert (found.low, found.high) == (pytest.approx(0.05), pytest.approx(0.3))
