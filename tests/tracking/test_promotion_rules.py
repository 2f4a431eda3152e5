import re
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
    assert refusals(challenger(scores={"apidocs": lowered(0.05)}), CHAMPION, RULES) == [
        "apidocs: nDCG@10 is 0.050 below version 1's, which is not less than register.max_drop = 0.01 (100 queries)"
    ]


def test_a_loss_that_is_not_significant_is_refused_too() -> None:
    # Two queries of a hundred lose 0.45 each: 0.009 in the mean, within 0.01, and no test would call it significant.
    # Its standard deviation is 0.45 * sqrt(0.02 * 0.98 * 100 / 99) = 0.0633, its limit 0.001 away:
    # (1.96 * 0.0633 / 0.001)^2 = 15,400 queries.
    (sentence,) = refusals(challenger(scores={"apidocs": lowered(0.45, queries=2)}), CHAMPION, RULES)
    said = re.fullmatch(
        r"apidocs: nDCG@10 is 0\.009 below version 1's, but 100 queries do not show that the loss is less than "
        r"register\.max_drop = 0\.01: it may be (0\.0\d\d) \(95 %\); about ([\d,]+) queries like these would show it, "
        r"if the difference stays",
        sentence,
    )
    assert said is not None, sentence
    assert 0.018 <= float(said[1]) <= 0.027  # 4 or 5 of a hundred draws lose, where 2 do in the mean
    assert int(said[2].replace(",", "")) == pytest.approx(15_400, rel=0.01)


def test_a_model_that_finds_nothing_is_refused_by_five_queries() -> None:
    # By sign flips, five losses of five have p = 2 / 2^5 = 0.0625: no significant loss.
    found = {f"q{i}": score for i, score in enumerate((1.0, 0.63, 0.5, 0.39, 1.0))}
    best = replace(CHAMPION, scores={"apidocs": found})
    assert refusals(challenger(scores={"apidocs": dict.fromkeys(found, 0.0)}), best, RULES) == [
        "apidocs: nDCG@10 is 0.704 below version 1's, which is not less than register.max_drop = 0.01 (5 queries)"
    ]


def test_equal_scores_of_a_few_queries_show_nothing() -> None:
    few = {f"q{i}": 0.5 for i in range(29)}
    best = replace(CHAMPION, scores={"apidocs": few})
    assert refusals(challenger(scores={"apidocs": few}), best, RULES) == [
        "apidocs: nDCG@10 is that of version 1, but 29 queries show nothing: evaluate on 30 at least"
    ]


def test_each_set_must_pass_and_more_sets_are_harder() -> None:
    # Half of 100 queries lose 0.1, half win 0.1. The bound is about -0.0201 alone, at 97.5 % about -0.0230.
    swung = {
        query: score + (0.1 if i % 2 else -0.1) for i, (query, score) in enumerate(CHAMPION.scores["apidocs"].items())
    }
    sets = {name: CHAMPION.scores["apidocs"] for name in ("a", "b")}
    both = replace(CHAMPION, scores=sets, data=dict.fromkeys(sets, "abc"))
    rules = replace(RULES, max_drop=0.0215)
    alone = challenger(scores={"apidocs": swung})
    assert refusals(alone, CHAMPION, rules) == []
    named = refusals(replace(both, name="2", scores={"a": swung, "b": sets["b"]}), both, rules)
    assert [sentence.partition(":")[0] for sentence in named] == ["a"]


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
