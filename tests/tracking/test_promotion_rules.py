from dataclasses import replace

import pytest

from effir.evaluation.significance import holm
from effir.evaluation.variant import Variant
from effir.tracking.promotion import PromotionRules, refusals

RULES = PromotionRules(max_drop=0.01, min_speedup=1.0, max_kept_share=0.7)
CHAMPION = Variant(
    name="1",
    params={},
    quality={},
    scores={"apidocs": {f"q{i}": i / 100 for i in range(100)}},
    data={"apidocs": "abc"},
    cost={"document_speedup": 1.5, "kept_share": 0.65},
)


def lowered(by: float, queries: int = 100) -> dict[str, float]:
    """The champion's scores, of the first ``queries`` queries lowered."""
    scores = CHAMPION.scores["apidocs"]
    return {query: score - by * (i < queries) for i, (query, score) in enumerate(scores.items())}


def challenger(**changes: object) -> Variant:
    return replace(CHAMPION, name="2", **changes)  # type: ignore[arg-type]


def test_an_equal_and_a_better_challenger_pass() -> None:
    assert refusals(challenger(), CHAMPION, RULES) == []
    assert refusals(challenger(scores={"apidocs": lowered(-0.2)}), CHAMPION, RULES) == []


def test_a_loss_within_the_limit_passes_and_one_beyond_is_named_with_its_size() -> None:
    assert refusals(challenger(scores={"apidocs": lowered(0.009)}), CHAMPION, RULES) == []
    (sentence,) = refusals(challenger(scores={"apidocs": lowered(0.05)}), CHAMPION, RULES)
    assert sentence.startswith(
        "apidocs: nDCG@10 is 0.050 below version 1's, significantly more than register.max_drop = 0.01 (p = "
    )


def test_a_loss_on_few_queries_is_not_significant() -> None:
    # Two queries of a hundred lose 0.9 each: 0.018 in the mean, more than 0.01; either sign of two is as likely.
    assert refusals(challenger(scores={"apidocs": lowered(0.9, queries=2)}), CHAMPION, RULES) == []


def test_limits_on_speed_and_size_count_without_a_champion_too() -> None:
    assert refusals(challenger(), None, RULES) == []
    assert refusals(challenger(cost={"document_speedup": 0.9, "kept_share": 0.8}), None, RULES) == [
        "it encodes documents 0.90 times as fast as the base model, less than register.min_speedup = 1",
        "it keeps 80.0% of the base model's non-embedding parameters, more than register.max_kept_share = 0.7",
    ]


def test_versions_on_different_data_are_not_compared() -> None:
    assert refusals(challenger(data={"apidocs": "xyz"}, scores={"apidocs": {"other": 0.0}}), CHAMPION, RULES) == [
        "apidocs: versions 2 and 1 were evaluated on different data"
    ]
    assert refusals(challenger(scores={}, data={}), CHAMPION, RULES) == [
        "apidocs: version 2 was not evaluated on it, version 1 was"
    ]


def test_holm_corrects_the_smallest_most_and_never_falls() -> None:
    # Sorted: 0.01 * 3, 0.02 * 2 = 0.04, then 0.03 * 1 = 0.03, raised to 0.04.
    assert holm({"a": 0.03, "b": 0.01, "c": 0.02}) == pytest.approx({"b": 0.03, "c": 0.04, "a": 0.04})
    assert holm({"a": 0.8, "b": 0.6}) == {"b": 1.0, "a": 1.0}
    assert holm({}) == {}
