"""The memory of a sweep, with optuna and its file, and figures made up by a formula."""

from dataclasses import replace
from pathlib import Path

import pytest

from effir.errors import EffirError
from effir.lab.space import Choice, Range
from effir.lab.sweep_state import Plan, Study, Trial, predicted_parameters
from effir.lab.target import Result, Target
from effir.model.shape import LayerCost, ModelShape

# 10 layers of 100 for the attention, 4 fixed and 96 channels of 3 for the MLP, and 7 at the end: 3,927 in all.
SHAPE = ModelShape(
    family="llama",
    mlp_widths=(96,) * 10,
    attention_kept=(True,) * 10,
    cost=LayerCost(100, 96, 4, 3, 3, 1000, 7, 8),
    is_cut=False,
)
DEFAULT = {"analyze.sublayer": "block", "prune.depth": 0, "prune.width": 1.0}
PLAN = Plan(
    name="trial",
    target=Target(max_parameters=2500),
    space={"prune.depth": Range(0, 8, 1), "prune.width": Range(0.5, 1.0, 0.1)},
    trials=6,
    params={**DEFAULT, "distill.steps": 40, "data.mirror": "file:///here"},
)


def figures(settings: dict[str, float]) -> Result:
    size = predicted_parameters(SHAPE, {**DEFAULT, **settings})
    return Result(ndcg=size / 4000, parameters=size, speedup=3927 / size)


def run(study: Study, count: int) -> None:
    for _ in range(count):
        drawn = study.next()
        assert drawn is not None
        result = figures(drawn.settings)
        study.record(
            drawn, Trial(drawn.experiment, drawn.settings, 0.1, result, PLAN.target.misses(result, None)), None
        )


def test_a_size_is_foreseen_without_cutting() -> None:
    assert predicted_parameters(SHAPE, DEFAULT) == 10 * (100 + 4 + 96 * 3) + 7
    cut = {"analyze.sublayer": "block", "prune.depth": 4, "prune.width": 0.5}
    assert predicted_parameters(SHAPE, cut) == 6 * (100 + 4 + 48 * 3) + 7
    assert predicted_parameters(SHAPE, {**cut, "analyze.sublayer": "mlp"}) == 10 * 100 + 6 * (4 + 48 * 3) + 7


def test_what_a_ranking_of_two_kinds_will_drop_cannot_be_foreseen() -> None:
    with pytest.raises(EffirError, match=r"the size of a cut by either cannot be foreseen: choose mlp"):
        predicted_parameters(SHAPE, {**DEFAULT, "analyze.sublayer": "attention_or_mlp"})


def test_what_is_too_large_is_never_tried_and_nothing_twice(tmp_path: Path) -> None:
    study = Study(PLAN, SHAPE, tmp_path)
    run(study, 6)
    done = study.done()
    assert [trial.experiment for trial in done] == [f"trial-{number}" for number in range(1, 7)]
    assert all(trial.result and trial.result.parameters <= 2500 for trial in done)
    assert len({tuple(trial.settings.values()) for trial in done}) == 6


def test_a_width_that_steps_miss_by_a_rounding_error_is_tried_once(tmp_path: Path) -> None:
    width = replace(PLAN, target=Target(max_parameters=4000), space={"prune.width": Range(0.8, 0.88, 0.04)})
    run(study := Study(width, SHAPE, tmp_path), 3)  # 0.8 + 0.04 is 0.8400000000000001
    assert sorted(trial.settings["prune.width"] for trial in study.done()) == [0.8, 0.84, 0.88]
    assert study.next() is None


def test_a_killed_sweep_goes_on_with_the_trial_that_it_left(tmp_path: Path) -> None:
    study = Study(PLAN, SHAPE, tmp_path)
    run(study, 2)
    left = study.next()  # and the process is killed
    again = Study(PLAN, SHAPE, tmp_path)
    assert len(again.done()) == 2
    drawn = again.next()
    assert left is not None
    assert drawn is not None
    assert (drawn.experiment, drawn.settings) == ("trial-3", left.settings)
    run(again, 3)
    assert [one.experiment for one in again.done()] == [f"trial-{number}" for number in range(1, 6)]


def test_another_target_under_the_same_name_is_refused_but_more_trials_are_not(tmp_path: Path) -> None:
    Study(PLAN, SHAPE, tmp_path)
    Study(replace(PLAN, trials=12), SHAPE, tmp_path)
    with pytest.raises(EffirError, match="sweep trial was begun with another target: go back to that, or give another"):
        Study(replace(PLAN, target=Target(min_speedup=2)), SHAPE, tmp_path)


def test_trials_of_other_params_are_not_mixed_with_new_ones(tmp_path: Path) -> None:
    Study(PLAN, SHAPE, tmp_path)
    # What varies, and where this machine has its data, may be otherwise.
    Study(replace(PLAN, params={**PLAN.params, "prune.depth": 5, "data.mirror": "file:///there"}), SHAPE, tmp_path)
    with pytest.raises(EffirError, match=r"sweep trial was begun with another restore\.steps: go back to that"):
        Study(replace(PLAN, params={**PLAN.params, "distill.steps": 120}), SHAPE, tmp_path)


def test_where_all_has_been_tried_or_is_too_large_there_is_no_next(tmp_path: Path) -> None:
    study = Study(replace(PLAN, space={"analyze.sublayer": Choice(("block", "mlp"))}), SHAPE, tmp_path)
    assert study.next() is None
    small = replace(PLAN, name="two", space={"prune.depth": Range(7, 8, 1)})
    run(two := Study(small, SHAPE, tmp_path), 2)
    assert two.next() is None
