import pytest

from effir.errors import EffirError
from effir.lab.target import Result, Target, best, hopeless

SMALL, FAST, GOOD = Result(0.40, 50_000_000, 2.2), Result(0.55, 70_000_000, 2.0), Result(0.60, 90_000_000, 1.5)


def test_every_limit_that_is_missed_is_named_with_its_figure() -> None:
    target = Target(max_parameters=60_000_000, min_speedup=2.5, max_loss=0.1)
    # 0.55 of a reference of 0.70 is a loss of 0.15 / 0.70 = 21.4 %.
    assert target.misses(FAST, reference=0.70) == [
        "70.0 M parameters are more than 60.0 M",
        "a speed-up of 2.00 is less than 2.5",
        "it loses 21.4% of the full-size model's nDCG@10, more than 10.0%",
    ]
    beyond = {"parameters": 70 / 60 - 1, "speedup": 1 - 2 / 2.5, "loss": 0.9 - 0.55 / 0.70}
    assert target.violations(FAST, reference=0.70) == pytest.approx(beyond)


def test_a_limit_that_is_just_met_is_met() -> None:
    target = Target(max_parameters=70_000_000, min_speedup=2.0, max_loss=0.5)
    assert target.misses(FAST, reference=1.1) == []
    assert max(target.violations(FAST, reference=1.1).values()) == pytest.approx(0)


def test_within_a_budget_the_best_finds_most() -> None:
    results = [SMALL, FAST, GOOD]
    assert best(Target(max_parameters=80_000_000), results, None) == 1
    assert best(Target(min_speedup=2.1), results, None) == 0
    assert best(Target(min_speedup=3), results, None) is None


def test_within_a_loss_alone_the_best_is_the_smallest() -> None:
    # At most 10 % of 0.6 lost leaves those of 0.54 and more.
    assert best(Target(max_loss=0.1), [SMALL, FAST, GOOD], reference=0.6) == 1
    assert best(Target(max_loss=0.1, min_speedup=1), [SMALL, FAST, GOOD], reference=0.6) == 2


def test_nothing_is_given_up_before_two_trials_are_healed() -> None:
    assert not hopeless(Target(min_speedup=2), 0.0, [(0.3, True)])


def test_where_quality_is_sought_a_trial_below_the_median_is_hopeless() -> None:
    healed = [(0.1, True), (0.3, False), (0.2, True)]
    assert hopeless(Target(min_speedup=2), 0.19, healed)
    assert not hopeless(Target(min_speedup=2), 0.20, healed)


def test_where_the_smallest_is_sought_one_no_better_than_a_miss_is_hopeless() -> None:
    healed = [(0.1, False), (0.3, True)]
    assert hopeless(Target(max_loss=0.1), 0.1, healed)
    assert not hopeless(Target(max_loss=0.1), 0.2, healed)


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({}, "a sweep needs a target"),
        ({"max_parameters": 0}, "60M is 60 million"),
        ({"min_speedup": -1.0}, "2 is twice the documents a second"),
        ({"max_loss": 1.0}, "0.01 is 1 % of nDCG@10"),
    ],
)
def test_an_impossible_target_dies_at_construction(limits: dict[str, float], sentence: str) -> None:
    with pytest.raises(EffirError, match=sentence):
        Target(**limits)  # type: ignore[arg-type]
