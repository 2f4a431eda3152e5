"""Non-inferiority: what a bound is made of, and how many queries it takes."""

import pytest

from effir.errors import EffirError
from effir.evaluation.significance import non_inferiority


def scores(*values: float) -> dict[str, float]:
    return {f"q{i}": value for i, value in enumerate(values)}


def test_the_bound_of_two_queries_is_the_worse_one() -> None:
    # t with one degree of freedom is 12.7 at 2.5 %: the lowest of all draws, both times the worse query.
    found = non_inferiority(scores(0.5, 0.9), scores(0.7, 0.8), 0.1)
    assert (found.difference, found.low) == (pytest.approx(-0.05), pytest.approx(-0.2))
    assert (found.shown, found.needed) == (False, 70)  # (1.96 * 0.2121 / 0.05)^2 = 69.1, with the spread 0.3 / sqrt(2)


def test_one_query_bounds_nothing() -> None:
    found = non_inferiority(scores(1.0), scores(0.0), 0.1)
    assert (found.low, found.shown, found.needed) == (-1.0, False, 30)


def test_the_bound_is_near_that_of_the_normal_distribution_where_queries_are_many() -> None:
    # 1,000 differences of 0.1 and -0.1: their mean has a standard error of 0.1 / sqrt(1000) = 0.00316, and 1.96 of it
    # are 0.0062; at 1 - 0.05 / 5 it is 2.576 of it, 0.0081.
    ours, theirs = scores(*[0.6, 0.4] * 500), scores(*[0.5] * 1000)
    for tests, low in ((1, -0.0062), (5, -0.0081)):
        assert non_inferiority(ours, theirs, 0.01, tests=tests).low == pytest.approx(low, abs=3e-4)


def test_no_number_of_queries_shows_what_is_not_so() -> None:
    found = non_inferiority(scores(*[0.4] * 50), scores(*[0.5] * 50), 0.1)
    assert (found.shown, found.needed) == (False, None)  # a loss of exactly the margin is not less


def test_as_many_queries_as_are_said_to_be_needed_show_it() -> None:
    # The bootstrap of 385 differences of +-0.1 has a bound of 1.96 * 0.1 / sqrt(385) = 0.00999: 0.01 is just above.
    few = non_inferiority(scores(*[0.6, 0.4] * 50), scores(*[0.5] * 100), 0.01)
    assert few.needed == pytest.approx(385, abs=5)
    count = int(few.needed * 1.1) // 2  # the bound is drawn: a tenth more
    assert not few.shown
    assert non_inferiority(scores(*[0.6, 0.4] * count), scores(*[0.5] * 2 * count), 0.01).shown


def test_queries_must_be_the_same() -> None:
    with pytest.raises(EffirError, match="the same queries on both sides: 1 are unpaired"):
        non_inferiority(scores(1.0, 0.5), scores(1.0), 0.01)
