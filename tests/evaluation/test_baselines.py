"""What metrics/<set>.json says of the baselines; expected values are derived from the scores given here."""

import pytest

from effir.errors import EffirError
from effir.evaluation.baselines import baselines_in, compare_with
from effir.evaluation.metrics import Quality, score_report

OURS = {f"q{i}": 0.5 for i in range(4)}


def report(*scores: float) -> dict[str, object]:
    return score_report(Quality({f"q{i}": {"ndcg_at_10": score} for i, score in enumerate(scores)}), 100, 0)


def test_a_difference_is_the_retriever_less_the_baseline_with_its_bounds() -> None:
    found = compare_with(OURS, {"bm25": report(0.25, 0.25, 0.25, 0.25), "small": report(0.5, 0.75, 0.75, 1.0)}, 1000, 0)
    assert list(found) == [
        *("bm25_ndcg_at_10", "vs_bm25", "vs_bm25_low", "vs_bm25_high"),
        *("small_ndcg_at_10", "vs_small", "vs_small_low", "vs_small_high"),
    ]
    assert list(found.values())[:4] == [0.25, 0.25, 0.25, 0.25]  # equal differences: their bounds are equal
    assert (found["small_ndcg_at_10"], found["vs_small"]) == (0.75, -0.25)  # 3 / 4, and 0.5 less it
    assert -0.5 <= found["vs_small_low"] < -0.25 < found["vs_small_high"] <= 0


def test_scores_of_other_queries_are_refused() -> None:
    with pytest.raises(EffirError, match="the same queries"):
        compare_with(OURS, {"small": report(0.5)}, 100, 0)


def test_what_is_written_holds_the_means_and_the_score_of_each_query() -> None:
    found = score_report(Quality({"a": {"ndcg_at_10": 1.0}, "b": {"ndcg_at_10": 0.0}}), 100, 0)
    assert found["ndcg_at_10"] == {"a": 1.0, "b": 0.0}
    assert (found["metrics"]["ndcg_at_10"], found["metrics"]["queries"]) == (0.5, 2)


def test_the_names_in_metrics_are_those_that_were_compared() -> None:
    written = {"ndcg_at_10": 0.5, "ndcg_at_10_low": 0.4} | compare_with(OURS, {"bm25": report(*[0.5] * 4)}, 10, 0)
    assert baselines_in(written) == ["bm25"]
