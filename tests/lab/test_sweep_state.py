"""The state of a sweep in optuna's file; metrics are a formula."""

from dataclasses import replace
from pathlib import Path

import pytest

from effir.errors import EffirError
from effir.lab.sweep_plan import Choice, Plan, Range, Result, Target
from effir.lab.sweep_state import SweepState, Trial, predicted_parameters
from effir.model.shape import LayerCost, ModelShape

pytestmark = pytest.mark.slow

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


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each draw takes a tenth of a second."""
    monkeypatch.setattr("effir.lab.sweep_state.MOST_MISSES", 15)


def metrics(settings: dict[str, float]) -> Result:
    size = predicted_parameters(SHAPE, {**DEFAULT, **settings})
    return Result(ndcg=size / 4000, parameters=size, speedup=3927 / size)


def run(state: SweepState, count: int) -> None:
    for _ in range(count):
        drawn = state.next()
        assert drawn is not None
        result = metrics(drawn.settings)
        state.record(
            drawn, Trial(drawn.experiment, drawn.settings, 0.1, result, PLAN.target.misses(result, None)), None
        )


def test_the_size_of_a_cut_is_predicted() -> None:
    assert predicted_parameters(SHAPE, DEFAULT) == 10 * (100 + 4 + 96 * 3) + 7
    cut = {"analyze.sublayer": "block", "prune.depth": 4, "prune.width": 0.5}
    assert predicted_parameters(SHAPE, cut) == 6 * (100 + 4 + 48 * 3) + 7
    assert predicted_parameters(SHAPE, {**cut, "analyze.sublayer": "mlp"}) == 10 * 100 + 6 * (4 + 48 * 3) + 7


def test_the_size_of_a_cut_by_a_ranking_of_two_kinds_is_not_predicted() -> None:
    with pytest.raises(EffirError, match=r"attention_or_mlp .* the size of the cut is not known"):
        predicted_parameters(SHAPE, {**DEFAULT, "analyze.sublayer": "attention_or_mlp"})


def test_no_trial_is_too_large_and_none_runs_twice(tmp_path: Path) -> None:
    state = SweepState(PLAN, SHAPE, tmp_path)
    run(state, 6)
    done = state.done()
    assert [trial.experiment for trial in done] == [f"trial-{number}" for number in range(1, 7)]
    assert all(trial.result and trial.result.parameters <= 2500 for trial in done)
    assert len({tuple(trial.settings.values()) for trial in done}) == 6


def test_a_width_with_a_rounding_error_is_tried_once(few_draws: None, tmp_path: Path) -> None:
    width = replace(PLAN, target=Target(max_parameters=4000), space={"prune.width": Range(0.8, 0.88, 0.04)})
    run(state := SweepState(width, SHAPE, tmp_path), 3)  # 0.8 + 0.04 is 0.8400000000000001
    assert sorted(trial.settings["prune.width"] for trial in state.done()) == [0.8, 0.84, 0.88]
    assert state.next() is None


def test_a_killed_sweep_continues_its_interrupted_trial(tmp_path: Path) -> None:
    state = SweepState(PLAN, SHAPE, tmp_path)
    run(state, 2)
    left = state.next()  # and the process is killed
    again = SweepState(PLAN, SHAPE, tmp_path)
    assert len(again.done()) == 2
    drawn = again.next()
    assert left is not None
    assert drawn is not None
    assert (drawn.experiment, drawn.settings) == ("trial-3", left.settings)
    run(again, 3)
    assert [one.experiment for one in again.done()] == [f"trial-{number}" for number in range(1, 6)]


def test_another_target_under_the_same_name_is_refused_but_more_trials_are_not(tmp_path: Path) -> None:
    SweepState(PLAN, SHAPE, tmp_path)
    SweepState(replace(PLAN, trials=12), SHAPE, tmp_path)
    with pytest.raises(EffirError, match="sweep trial was started with another target: restore it, or give another"):
        SweepState(replace(PLAN, target=Target(min_speedup=2)), SHAPE, tmp_path)


def test_trials_of_other_params_are_not_mixed_with_new_ones(tmp_path: Path) -> None:
    SweepState(PLAN, SHAPE, tmp_path)
    # What varies, and where this machine has its data, may be otherwise.
    SweepState(replace(PLAN, params={**PLAN.params, "prune.depth": 5, "data.mirror": "file:///there"}), SHAPE, tmp_path)
    with pytest.raises(EffirError, match=r"sweep trial was started with another distill\.steps: restore it"):
        SweepState(replace(PLAN, params={**PLAN.params, "distill.steps": 120}), SHAPE, tmp_path)


def test_a_sweep_is_not_continued_by_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SweepState(PLAN, SHAPE, tmp_path)
    monkeypatch.setattr("effir.lab.sweep_state.code_digest", lambda: "of a later effir")
    with pytest.raises(EffirError, match="sweep trial was started with another version of effir or its libraries"):
        SweepState(PLAN, SHAPE, tmp_path)


def test_there_is_no_next_trial_if_all_ran_or_are_too_large(few_draws: None, tmp_path: Path) -> None:
    state = SweepState(replace(PLAN, space={"analyze.sublayer": Choice(("block", "mlp"))}), SHAPE, tmp_path)
    assert state.next() is None
    small = replace(PLAN, name="two", space={"prune.depth": Range(7, 8, 1)})
    run(two := SweepState(small, SHAPE, tmp_path), 2)
    assert two.next() is None
