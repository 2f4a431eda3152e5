"""Search quality: BEIR's own metrics, every query of the qrels counted, and bounds and p-values derived by hand."""

import json
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from beir.retrieval.evaluation import EvaluateRetrieval

from effir.errors import EffirError
from effir.evaluation.metrics import CUTOFFS, as_run, evaluate_run, summary
from effir.evaluation.significance import bootstrap_bounds, bootstrap_ratio, paired_test

Run = dict[str, dict[str, float]]
Qrels = dict[str, dict[str, int]]


def graded_collection(seed: int) -> tuple[Run, Qrels]:
    """40 queries, 150 hits each with many equal scores, grades 0 to 3; some documents share their query's id."""
    rng = np.random.default_rng(seed)
    names = [f"{number}" for number in range(400)]
    run, qrels = {}, {}
    for query in names[:40]:
        hits = [names[i] for i in rng.permutation(400)[:150]]
        scores = np.sort(rng.integers(0, 90, 150))[::-1] / 90
        run[query] = dict(zip(hits, scores.tolist(), strict=True))
        judged = [query, *rng.choice(hits, 12, replace=False), *rng.choice(names, 6, replace=False)]
        qrels[query] = {str(document): int(rng.integers(0, 4)) for document in judged}
    return run, qrels


def beirs_own(run: Run, qrels: Qrels) -> dict[str, float]:
    copy = {query: dict(hits) for query, hits in run.items()}  # BEIR pops identical ids out of what it is given
    ndcg, mean_ap, recall, _ = EvaluateRetrieval.evaluate(qrels, copy, list(CUTOFFS))
    mrr = EvaluateRetrieval.evaluate_custom(qrels, copy, list(CUTOFFS), metric="mrr")
    return {key.lower().replace("@", "_at_"): value for key, value in {**ndcg, **mean_ap, **recall, **mrr}.items()}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_means_are_beirs_own(seed: int) -> None:
    run, qrels = graded_collection(seed)
    means = evaluate_run(run, qrels, copies=qrels).means()
    theirs = beirs_own(run, qrels)
    assert means.keys() == theirs.keys()
    assert len(means) == 16
    for measure, mean in means.items():
        assert mean == pytest.approx(theirs[measure], abs=1e-5), measure  # BEIR rounds to 5 digits


def test_means_that_beir_measures_otherwise_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*arguments: object, **options: object) -> tuple[dict[str, float], ...]:
        return {"NDCG@10": 0.99998}, {}, {}, {}

    monkeypatch.setattr(EvaluateRetrieval, "evaluate", other)
    with pytest.raises(EffirError, match=r"ndcg_at_10 is 1\.000000, but BEIR's EvaluateRetrieval gives 0\.99998"):
        evaluate_run({"q": {"a": 1.0}}, {"q": {"a": 1}})


def test_a_small_run_scores_as_worked_out_by_hand() -> None:
    run = {"q": {"x": 3.0, "a": 2.0, "b": 1.0}}
    qrels = {"q": {"a": 1, "b": 2, "c": 0, "d": 1}}
    scores = evaluate_run(run, qrels).scores["q"]
    # a (grade 1) stands second, b (grade 2) third: DCG = 1/log2(3) + 2/log2(4); ideal: 2, 1, 1 at ranks 1, 2, 3.
    gain, ideal = 1 / np.log2(3) + 2 / 2, 2 + 1 / np.log2(3) + 1 / 2
    assert scores["ndcg_at_10"] == pytest.approx(gain / ideal)
    assert scores["recall_at_10"] == pytest.approx(2 / 3)  # a and b of a, b, d
    assert scores["map_at_10"] == pytest.approx((1 / 2 + 2 / 3) / 3)  # precisions at the ranks of a and b, over 3
    assert (scores["mrr_at_1"], scores["mrr_at_5"]) == (0.0, 0.5)


def test_judged_queries_that_the_run_lacks_count_as_zero() -> None:
    qrels = {"found": {"a": 1}, "empty": {"b": 1}, "missing": {"c": 1}, "unrelated": {"d": 0}}
    run: Run = {"found": {"a": 1.0}, "empty": {}, "unrelated": {"d": 1.0}, "not judged": {"a": 1.0}}
    quality = evaluate_run(run, qrels)
    assert quality.queries == 4
    # 1 for the found query, 0 for three others; BEIR would average nDCG over the 3 queries of the run.
    assert quality.means()["ndcg_at_10"] == quality.means()["mrr_at_10"] == 0.25


def test_a_query_judged_with_an_empty_list_counts_as_zero() -> None:
    quality = evaluate_run({"q": {"a": 1.0}, "r": {"a": 1.0}}, {"q": {"a": 1}, "r": {}})
    assert quality.by_query("ndcg_at_10") == {"q": 1.0, "r": 0.0}


def test_a_document_that_only_has_its_querys_id_counts() -> None:
    # Queries 1 to 20 and documents 1 to 20, each query answered by the document of its number, found first.
    qrels = {str(number): {str(number): 1} for number in range(1, 21)}
    run = {query: {query: 9.0, "other": 1.0} for query in qrels}
    assert evaluate_run(run, qrels).means()["ndcg_at_10"] == 1.0
    assert evaluate_run(run, qrels, copies={"1"}).means()["ndcg_at_10"] == 19 / 20
    assert beirs_own(run, qrels)["ndcg_at_10"] == 0.0


def test_a_query_that_is_a_document_does_not_find_itself_and_the_run_stays_as_it_was() -> None:
    run = {"1": {"1": 9.0, "2": 1.0}}
    scores = evaluate_run(run, {"1": {"1": 1, "2": 1}}, copies={"1"}).scores["1"]
    assert scores["mrr_at_1"] == 1.0  # document 2 moved up to rank 1
    assert scores["recall_at_100"] == 0.5  # document 1 still counts among the relevant ones, as in BEIR
    assert run == {"1": {"1": 9.0, "2": 1.0}}


def test_of_an_id_that_is_found_twice_the_better_score_counts() -> None:
    hits = [SimpleNamespace(id=name, score=score) for name, score in [("a", 0.9), ("b", 0.5), ("a", 0.1)]]
    assert as_run(["q", "r"], [hits, []]) == {"q": {"a": 0.9, "b": 0.5}, "r": {}}


def test_an_evaluation_of_nothing_is_refused() -> None:
    with pytest.raises(EffirError, match="no relevance judgements"):
        evaluate_run({"q": {"a": 1.0}}, {})
    with pytest.raises(EffirError, match="no query of the qrels"):
        evaluate_run({"other": {"a": 1.0}}, {"q": {"a": 1}})


def test_the_summary_has_names_that_mlflow_takes_and_is_plain_json() -> None:
    quality = evaluate_run({"q": {"a": 1.0}}, {"q": {"a": 1}, "r": {"b": 1}})
    report = summary(quality, (0.1, 0.9))
    assert {"ndcg_at_10", "recall_at_100", "mrr_at_10", "map_at_100", "ndcg_at_1"} < report.keys()
    assert (report["ndcg_at_10"], report["queries"]) == (0.5, 2)
    assert (report["ndcg_at_10_low"], report["ndcg_at_10_high"]) == (0.1, 0.9)
    assert not any("@" in name for name in report)
    assert json.loads(json.dumps(quality.scores)) == quality.scores


def test_bootstrap_bounds_of_two_queries_are_all_three_means_apart() -> None:
    # Means of 2 draws from (0, 1): 0, 1/2, 1 with chances 1/4, 1/2, 1/4. So the middle 40 % is 1/2 alone,
    # and the middle 95 % reaches from 0 to 1.
    assert bootstrap_bounds([0.0, 1.0], level=0.40) == (0.5, 0.5)
    assert bootstrap_bounds([0.0, 1.0]) == (0.0, 1.0)


def test_bootstrap_bounds_are_as_wide_as_the_standard_error_says() -> None:
    scores = np.random.default_rng(3).normal(0.5, 0.2, size=400)
    low, high = bootstrap_bounds(scores)
    error = scores.std() / np.sqrt(400)  # about 0.01; the normal 95 % is 1.96 of them to either side
    assert low == pytest.approx(scores.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(scores.mean() + 1.96 * error, abs=0.1 * error)
    assert bootstrap_bounds(scores) == (low, high)
    assert bootstrap_bounds(scores, seed=1) != (low, high)


def test_bootstrap_memory_does_not_grow_with_the_samples() -> None:
    scores = np.linspace(0, 1, 5_000)
    tracemalloc.start()
    bootstrap_bounds(scores, samples=2_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6  # all draws at once: 2,000 x 5,000 indices and values of 8 bytes, 160 MB


def test_no_scores_have_no_bounds() -> None:
    with pytest.raises(EffirError, match="no scores"):
        bootstrap_bounds([])


def test_the_exact_p_counts_sign_patterns() -> None:
    a, b = {"q": 0.9, "r": 0.5, "s": 0.6}, {"q": 0.6, "r": 0.3, "s": 0.5}
    # Differences 0.3, 0.2, 0.1, all positive: of 2^3 sign patterns only +++ and --- reach |sum| = 0.6.
    result = paired_test(a, b)
    assert (result.difference, result.p) == (pytest.approx(0.2), pytest.approx(2 / 8))
    assert result.queries == 3
    # Differences 0.3, 0.2, -0.1 sum to 0.4; |sum| of the patterns: 0.6 (twice), 0.4 (twice), 0.2 (twice), 0 (twice).
    assert paired_test({**a, "s": 0.4}, b).p == pytest.approx(4 / 8)


def test_equal_systems_do_not_differ() -> None:
    result = paired_test({"q": 0.4, "r": 0.2}, {"r": 0.2, "q": 0.4})  # paired by id, not by place
    assert (result.difference, result.low, result.high, result.p) == (0.0, 0.0, 0.0, 1.0)


def test_the_sampled_p_agrees_with_the_exact_one() -> None:
    rng = np.random.default_rng(0)
    a = {f"q{i}": float(score) for i, score in enumerate(rng.normal(0.15, 0.3, size=12))}
    b = dict.fromkeys(a, 0.0)
    exact, sampled = paired_test(a, b, samples=4_096).p, paired_test(a, b, samples=4_095).p
    assert 0.02 < exact < 0.98
    # 4,095 random patterns estimate p with a standard error of at most 0.5 / sqrt(4,095) = 0.008
    assert sampled == pytest.approx(exact, abs=0.03)
    assert sampled != exact


def test_the_sampled_p_is_never_zero() -> None:
    a = {f"q{i}": 1.0 for i in range(60)}
    # No random pattern of 60 signs is all alike, so only the observed one counts: 1 of 101.
    assert paired_test(a, dict.fromkeys(a, 0.0), samples=100).p == pytest.approx(1 / 101)


def test_a_share_of_the_other_system_can_be_tested() -> None:
    full = {f"q{i}": 0.5 + 0.001 * (i % 7) for i in range(50)}
    cut = {query: 0.9 * score for query, score in full.items()}
    assert paired_test(cut, full).high < 0
    kept = paired_test(cut, full, share=0.85)
    assert kept.low > 0
    assert kept.difference == pytest.approx(0.05 * np.mean(list(full.values())))


def test_unpaired_queries_are_refused() -> None:
    with pytest.raises(EffirError, match="2 are unpaired"):
        paired_test({"q": 1.0, "r": 1.0}, {"q": 1.0, "s": 1.0})


def test_what_is_kept_is_bounded_over_the_same_drawn_queries() -> None:
    full = {f"q{i}": 0.1 + 0.1 * (i % 9) for i in range(60)}
    kept = bootstrap_ratio({query: 0.9 * score for query, score in full.items()}, full)
    assert (kept.value, kept.low, kept.high) == pytest.approx((0.9, 0.9, 0.9))  # however the queries are drawn
    noisy = bootstrap_ratio({query: 0.9 * full[other] for query, other in zip(full, reversed(full), strict=True)}, full)
    assert noisy.value == pytest.approx(0.9)
    assert noisy.low < 0.85 < 0.95 < noisy.high


def test_there_is_nothing_to_keep_of_nothing() -> None:
    with pytest.raises(EffirError, match="2 are unpaired"):
        bootstrap_ratio({"q": 1.0, "r": 1.0}, {"q": 1.0, "s": 1.0})
    with pytest.raises(EffirError, match="no share of a mean of 0"):
        bootstrap_ratio({"q": 1.0}, {"q": 0.0})
