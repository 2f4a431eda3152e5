import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from effir.errors import EffirError
from effir.evaluation.variant import Variant
from effir.lab.comparison import Comparison, compare, over_seeds, query_differences
from effir.lab.table import footnotes, heading, rows, sentences

QUERIES = 10


def variant(name: str, ndcg: float = 0.5, sets: tuple[str, ...] = ("apidocs",), **changed: Any) -> Variant:
    """A variant whose queries all score ``ndcg``."""
    full = Variant(
        name=name,
        params={"prune.width": 0.7, "model.base": "path/to/base"},
        quality={s: {"ndcg_at_10": ndcg, "ndcg_at_10_low": ndcg, "ndcg_at_10_high": ndcg} for s in sets},
        scores={s: {f"q{i}": ndcg for i in range(QUERIES)} for s in sets},
        cost={"parameters_without_embeddings": 1e6, "kept_share": 0.5, "document_speedup": 1.5, "threads": 2},
        data=dict.fromkeys(sets, "abc"),
    )
    return replace(full, **changed)


def cells(comparison: Comparison, label: str) -> tuple[str, ...]:
    return next(row.cells for row in rows(comparison) if row.label.strip() == label)


def best(comparison: Comparison, label: str) -> frozenset[int]:
    return next(row.best for row in rows(comparison) if row.label.strip() == label)


def test_a_variant_against_its_own_copy_does_not_differ() -> None:
    found = compare([variant("a"), variant("b")])
    (difference,) = found.differences
    assert difference.test is not None
    assert (difference.test.difference, difference.p, difference.significant) == (0.0, 1.0, False)
    assert (difference.wins, difference.ties, difference.losses) == (0, QUERIES, 0)
    assert found.params == {}
    assert sentences(found) == ["b on apidocs: no difference (p = 1; 0 queries better, 10 equal, 0 worse)"]


def test_the_first_variant_is_the_baseline_and_a_difference_is_less_it() -> None:
    found = compare([variant("a", 0.5), variant("b", 0.75)])
    (difference,) = found.differences
    assert difference.test is not None
    # All 10 differences are 0.25: of the 2^10 sign patterns two are as far from 0, all plus and all minus.
    assert difference.test.difference == 0.25
    assert difference.p == pytest.approx(2 / 2**10)
    assert (difference.wins, difference.ties, difference.losses) == (10, 0, 0)
    assert compare([variant("b", 0.75), variant("a", 0.5)]).differences[0].losses == 10
    assert cells(found, "difference") == ("baseline", "+0.250 **")
    assert cells(found, "paired test") == ("", "p = 0.002, 10 queries")
    assert sentences(found) == [
        "b on apidocs: higher nDCG@10, by 0.250 (p = 0.002; 10 queries better, 0 equal, 0 worse)"
    ]


def test_p_is_corrected_for_every_test_of_the_comparison() -> None:
    both = ("apidocs", "scifact")
    found = compare([variant("a", 0.5, both), variant("b", 0.75, both), variant("c", 0.5, both)])
    assert [(d.variant, d.set) for d in found.differences] == [(v, s) for v in "bc" for s in both]
    # Holm (1979): the smallest of four p times 4, the next times 3 but never below it; the others are 1.
    p = 2 / 2**10
    assert [d.p for d in found.differences] == pytest.approx([4 * p, 4 * p, 1.0, 1.0])
    assert [d.test.p for d in found.differences if d.test] == pytest.approx([p, p, 1.0, 1.0])
    assert heading(found) == "nDCG@10 against a, query by query, p corrected for 4 tests (Holm):"


def test_a_query_counts_once_as_won_tied_or_lost() -> None:
    scores = {f"q{i}": 0.5 for i in range(QUERIES)} | {"q0": 1.0, "q1": 0.25, "q2": 0.0}
    ours, theirs = variant("b", scores={"apidocs": scores}), variant("a")
    (difference,) = compare([theirs, ours]).differences
    assert (difference.wins, difference.ties, difference.losses) == (1, 7, 2)
    assert query_differences(ours, theirs, "apidocs") == [0.5, *[0.0] * 7, -0.25, -0.5]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"data": {"apidocs": "other"}}, "the two were evaluated on different data"),
        ({"scores": {"apidocs": {"q0": 1.0}}}, "the two were evaluated on different queries (9 are unpaired)"),
        ({"scores": {}}, "the scores of b's queries were not kept"),
        ({"quality": {}, "scores": {}}, "b was not evaluated on it"),
    ],
)
def test_what_cannot_be_tested_says_why(changed: dict[str, Any], reason: str) -> None:
    found = compare([variant("a"), variant("b", 0.9, **changed)])
    (difference,) = found.differences
    assert (difference.test, difference.p, difference.reason) == (None, None, reason)
    assert found.tests == 0
    assert sentences(found) == [f"b on apidocs: not tested, because {reason}"]
    assert cells(found, "difference") == ("baseline", "-")


def test_an_untested_set_does_not_count_in_the_correction() -> None:
    both = ("apidocs", "scifact")
    other = variant("b", 0.75, both, data={"apidocs": "abc", "scifact": "other"})
    found = compare([variant("a", 0.5, both), other])
    assert [d.p for d in found.differences] == [pytest.approx(2 / 2**10), None]


def test_unknown_hashes_do_not_forbid_a_test_on_the_same_queries() -> None:
    (difference,) = compare([variant("a"), variant("b", data={"apidocs": ""})]).differences
    assert difference.test is not None


def test_only_params_that_differ_are_shown() -> None:
    found = compare(
        [
            variant("a", params={"prune.width": 0.7, "finetune.learning_rate": 0.0005, "prune.depth": 10}),
            variant(
                "b", params={"prune.width": "0.6", "finetune.learning_rate": "5e-4", "prune.depth": "10", "new": 1}
            ),
            variant("run without params", params={}),
        ]
    )
    assert found.params == {"prune.width": ["0.7", "0.6", None], "new": [None, "1", None]}


def test_params_that_change_no_metric_are_not_listed() -> None:
    neutral = {"distill.lora_rank": 16, "distill.steps": 5}  # the rank that older runs had, and did not keep
    local = {"data.mirror": "file:///here", "register.version": False, "tracking.required": False}
    idle = {"finetune.steps": 0, "prune.depth": 0}
    one = {**neutral, **idle, "finetune.learning_rate": 0.1, "analyze.criterion": "greedy"}
    other = {"distill.steps": 5, **local, **idle, "finetune.learning_rate": 0.2, "analyze.criterion": "cosine"}
    assert compare([variant("a", params=one), variant("b", params=other)]).params == {}
    at_work = compare([variant("a", params={**one, "prune.depth": 3}), variant("b", params=other)]).params
    assert at_work == {"prune.depth": ["3", "0"], "analyze.criterion": ["greedy", "cosine"]}


def test_what_as_served_means_is_said_once_and_only_where_it_is_shown() -> None:
    assert not any(note.startswith("As served") for note in footnotes(compare([variant("a"), variant("b")])))
    served = variant("b", cost={"served_document_speedup": 2.0, "served_query_speedup": 3.0})
    assert sum(note.startswith("As served") for note in footnotes(compare([variant("a"), served]))) == 1


def test_what_makes_cost_incomparable_is_noted() -> None:
    assert compare([variant("a"), variant("b")]).notes == ()
    other = variant("b", params={"model.base": "another"}, cost={"threads": 8}, notes=("b is old: run `dvc repro`",))
    assert footnotes(compare([variant("a"), other]))[-3:] == [
        "B is old: run `dvc repro`.",
        "The base models differ: size and speed of each variant are relative to its own base model.",
        "Speeds were measured with different numbers of threads, so they are not comparable.",
    ]


def test_no_variant_and_one_name_twice_are_refused() -> None:
    with pytest.raises(EffirError, match="there is nothing to compare"):
        compare([])
    with pytest.raises(EffirError, match="a is named twice"):
        compare([variant("a"), variant("b"), variant("a")])


def test_a_comparison_is_plain_json() -> None:
    found = compare([variant("a"), variant("b", 0.75), variant("c", data={"apidocs": "other"})])
    again = json.loads(json.dumps(asdict(found)))
    assert again["differences"][0]["test"]["difference"] == 0.25
    assert again["variants"][1]["scores"]["apidocs"]["q3"] == 0.75
    assert again["differences"][1]["reason"] == "the two were evaluated on different data"


def test_the_best_of_a_row_is_the_highest_quality_the_smallest_size_the_greatest_speed() -> None:
    small = {"parameters_without_embeddings": 5e5, "kept_share": 0.25, "document_speedup": 1.25}
    found = compare([variant("a", 0.5), variant("b", 0.25, cost=small), variant("c", 0.5, cost={})])
    assert best(found, "apidocs nDCG@10") == {0, 2}
    assert best(found, "non-embedding parameters") == {1}
    assert best(found, "documents a second") == {0}
    assert cells(found, "non-embedding parameters") == ("1.0 M (50.0 %)", "500.0 k (25.0 %)", "-")
    assert best(compare([variant("a"), variant("b")]), "apidocs nDCG@10") == set()


def test_baselines_have_rows_of_quality_difference_and_speed() -> None:
    metrics = {
        "ndcg_at_10": 0.5,
        "small_ndcg_at_10": 0.7,
        "vs_small": -0.2,
        "vs_small_low": -0.3,
        "vs_small_high": -0.1,
    }
    speeds = {"document_speedup": 1.5, "query_speedup": 1.4, "served_document_speedup": 3.0}
    speeds |= {"small_document_speedup": 9.0, "small_query_speedup": 6.0}
    found = compare([variant("a", quality={"apidocs": metrics}, cost=speeds), variant("b")])
    assert cells(found, "small nDCG@10") == ("0.700", "-")
    assert cells(found, "difference to small") == ("-0.200 (-0.300 to -0.100)", "-")
    labels = [row.label for row in rows(found)]
    speed = labels.index("documents a second")
    assert labels[speed : speed + 5] == [
        "documents a second",
        "  small",
        "queries, one by one",
        "  small",
        "documents, as served",
    ]
    assert [rows(found)[speed + place].cells for place in (1, 3)] == [("9.00 times", "-"), ("6.00 times", "-")]


def test_seeds_are_joined_in_one_column_with_their_spread() -> None:
    ours = [variant(f"ours{i}", 0.6 + 0.1 * i, params={"training.seed": i, "prune.width": 0.6}) for i in range(2)]
    found = compare([variant("full", 0.75), *over_seeds(ours)])
    assert [each.name for each in found.variants] == ["full", "ours0"]
    assert cells(found, "difference") == ("baseline", "-0.100 **")
    assert cells(found, "seeds") == ("1", "2: 0.600 to 0.700")
    said = "A variant of several seeds is the mean of each query's scores, with size and speed of the first seed."
    assert said in footnotes(found)


def test_a_test_between_single_seeds_says_what_it_cannot_know() -> None:
    doubt = "Tests are over queries: other seeds may differ by more (--seeds joins runs of several)."
    assert doubt in footnotes(compare([variant("a"), variant("b")]))
    assert doubt not in footnotes(compare([variant("a")]))


def test_what_is_to_be_doubted_of_a_seed_is_to_be_doubted_of_their_mean() -> None:
    seeds = [variant(f"s{i}", params={"training.seed": i}, notes=(f"s{i} is old", "all are old")) for i in range(2)]
    (one,) = over_seeds(seeds)
    assert one.notes == ("s0 is old", "all are old", "s1 is old")


def test_one_variant_alone_shows_its_metrics() -> None:
    found = compare([variant("a", 0.638)])
    assert (found.differences, heading(found)) == ((), "")
    assert cells(found, "apidocs nDCG@10") == ("0.638 (0.638 to 0.638)",)
    assert "paired test" not in {row.label.strip() for row in rows(found)}
