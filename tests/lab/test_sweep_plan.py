import pytest

from effir.errors import EffirError
from effir.lab.sweep_plan import Choice, Plan, Range, Result, Target, best, default_space, is_unpromising, read_space


def test_ranges_are_whole_where_their_ends_are() -> None:
    space = read_space(
        ["prune.depth=0:20", "prune.width=0.5:1", "distill.steps=0:40:20", "analyze.sublayer=mlp, block"]
    )
    assert space == {
        "prune.depth": Range(0, 20, 1),
        "prune.width": Range(0.5, 1, 0.02),
        "distill.steps": Range(0, 40, 20),
        "analyze.sublayer": Choice(("mlp", "block")),
    }
    whole = {key: where.is_whole for key, where in space.items() if isinstance(where, Range)}
    assert whole == {"prune.depth": True, "prune.width": False, "distill.steps": True}


def test_a_short_range_has_twenty_steps() -> None:
    assert read_space(["distill.learning_rate=1e-4:1e-3"])["distill.learning_rate"] == Range(1e-4, 1e-3, 9e-4 / 20)
    assert read_space(["prune.width=0.6:0.6"])["prune.width"] == Range(0.6, 0.6, 0.02)


@pytest.mark.parametrize(
    "text",
    [
        "prune.width=0.5:0.6:0.2",
        "prune.depth",
        "depth=0:20",
        "training.seed=0:9",
        "prune.depth=20:0",
        "prune.width=a:b",
        "prune.depth=0:9:0",
    ],
)
def test_what_is_no_range_says_how_one_is_written(text: str) -> None:
    with pytest.raises(
        EffirError, match=r"write prune\.depth=0:20, prune\.width=0\.5:1\.0:0\.04 or analyze\.sublayer=mlp,block"
    ):
        read_space([text])


def test_by_default_a_third_of_the_layers_stays() -> None:
    assert default_space(layers=30)["prune.depth"] == Range(0, 20, 1)


# --- target

SMALL, FAST, GOOD = Result(0.40, 50_000_000, 2.2), Result(0.55, 70_000_000, 2.0), Result(0.60, 90_000_000, 1.5)


def test_every_limit_that_is_missed_is_named_with_its_figure() -> None:
    target = Target(max_parameters=60_000_000, min_speedup=2.5, max_loss=0.1)
    # 0.55 of a reference of 0.70 is a loss of 0.15 / 0.70 = 21.4 %.
    assert target.misses(FAST, reference=0.70) == [
        "70.0 M parameters are more than 60.0 M",
        "a speed-up of 2.00 is less than 2.5",
        "it loses 21.4% of the uncompressed model's nDCG@10, more than 10.0%",
    ]
    beyond = {"parameters": 70 / 60 - 1, "speedup": 1 - 2 / 2.5, "loss": 0.9 - 0.55 / 0.70}
    assert target.violations(FAST, reference=0.70) == pytest.approx(beyond)


def test_a_limit_that_is_just_met_is_met() -> None:
    target = Target(max_parameters=70_000_000, min_speedup=2.0, max_loss=0.5)
    assert target.misses(FAST, reference=1.1) == []
    assert max(target.violations(FAST, reference=1.1).values()) == pytest.approx(0)


def test_within_a_size_or_speed_the_best_has_the_highest_ndcg() -> None:
    results = [SMALL, FAST, GOOD]
    assert best(Target(max_parameters=80_000_000), results, None) == 1
    assert best(Target(min_speedup=2.1), results, None) == 0
    assert best(Target(min_speedup=3), results, None) is None


def test_within_a_loss_alone_the_best_is_the_smallest() -> None:
    # At most 10 % of 0.6 lost leaves those of 0.54 and more.
    assert best(Target(max_loss=0.1), [SMALL, FAST, GOOD], reference=0.6) == 1
    assert best(Target(max_loss=0.1, min_speedup=1), [SMALL, FAST, GOOD], reference=0.6) == 2


def test_no_trial_is_stopped_before_two_are_fine_tuned() -> None:
    assert not is_unpromising(Target(min_speedup=2), 0.0, [(0.3, True)])


def test_for_highest_quality_a_trial_below_the_median_is_unpromising() -> None:
    trained = [(0.1, True), (0.3, False), (0.2, True)]
    assert is_unpromising(Target(min_speedup=2), 0.19, trained)
    assert not is_unpromising(Target(min_speedup=2), 0.20, trained)


def test_for_smallest_size_a_trial_no_better_than_a_miss_is_unpromising() -> None:
    trained = [(0.1, False), (0.3, True)]
    assert is_unpromising(Target(max_loss=0.1), 0.1, trained)
    assert not is_unpromising(Target(max_loss=0.1), 0.2, trained)


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


def test_a_plan_shares_fixed_settings_and_params_that_neither_vary_nor_are_local() -> None:
    params = {"analyze.sublayer": "block", "prune.depth": 0, "prune.width": 1.0, "data.mirror": "file:///here"}
    plan = Plan("fixed", Target(max_parameters=9), {"prune.width": Choice(("1.0",))}, 1, params, {"prune.depth": "5"})
    assert plan.shared == {"analyze.sublayer": "block", "prune.depth": "5"}
