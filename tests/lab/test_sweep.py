"""A sweep with optuna and its file; the pipeline is replaced by a formula."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from effir.cli import main
from effir.evaluation.variant import Variant
from effir.lab.settings import Value
from effir.lab.sweep import sweep
from effir.lab.sweep_state import predicted_parameters
from effir.lab.trials import TrialError
from effir.params import Scalar
from effir.tracking.store import StoreError
from tests.lab.test_sweep_state import DEFAULT, PLAN, SHAPE

pytestmark = pytest.mark.slow


class Pipeline:
    """Replaces ``run_trial`` and records its calls; nDCG@10 grows with the parameters."""

    def __init__(self, failing: Callable[[str], bool] = lambda name: False) -> None:
        self.ran: list[tuple[str, dict[str, Value]]] = []
        self.failing = failing

    def run(
        self,
        name: str,
        settings: Mapping[str, Value],
        params: Mapping[str, Scalar],
        log: Path,
        tell: Callable[[str], None],
    ) -> Variant:
        assert params.items() >= PLAN.params.items()
        if self.failing(name):
            raise TrialError(f"trial {name} failed")
        self.ran.append((name, dict(settings)))
        size = predicted_parameters(SHAPE, {**DEFAULT, **settings})
        cost = {"parameters_without_embeddings": size, "document_speedup": 3927 / size}
        return Variant(name, {**params, **settings}, {"tiny": {"ndcg_at_10": size / 4000}}, {}, cost, {}, source=name)


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    made = Pipeline()
    monkeypatch.setattr("effir.lab.sweep.run_trial", lambda *asked: made.run(*asked))
    return made


def test_the_best_trial_runs_once_more_to_be_registered_also_when_more_trials_follow(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    plan = replace(PLAN, seed=2)  # of which the first trial is not the best
    first = sweep(replace(plan, trials=1), SHAPE, tmp_path)
    assert first.best is not None
    assert first.registered == f"{first.best.experiment}-best" == "trial-1-best"
    last = sweep(plan, SHAPE, tmp_path)
    assert last.best is not None
    assert last.best.result is not None
    assert last.best.result.ndcg == max(trial.result.ndcg for trial in last.trials if trial.result)
    assert last.registered == f"{last.best.experiment}-best"
    assert "register.version" not in dict(pipeline.ran)[last.registered]
    names = [name for name, _ in pipeline.ran]
    assert len(names) == len(set(names))
    assert last.registered != first.registered


def test_a_store_that_is_away_ends_the_sweep_and_costs_no_trial(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(PLAN, params={**PLAN.params, "tracking.required": True})

    def away() -> None:
        raise StoreError("the MLflow server refuses connections", "start it")

    pipeline.failing = lambda name: name.startswith("trial-3")
    monkeypatch.setattr("effir.lab.sweep.open_store", away)
    with pytest.raises(StoreError, match="refuses connections: start it"):
        sweep(plan, SHAPE, tmp_path)
    pipeline.failing = lambda name: False
    done = sweep(plan, SHAPE, tmp_path)
    assert len(done.trials) == plan.trials
    assert all(trial.result for trial in done.trials if not trial.stopped.startswith("its nDCG@10 as cut"))
    assert not any("failed" in trial.stopped for trial in done.trials)


def test_a_trial_that_fails_by_itself_is_stopped_and_the_others_run(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effir.lab.sweep.open_store", lambda: None)
    pipeline.failing = lambda name: name.startswith("trial-3")
    trials = sweep(PLAN, SHAPE, tmp_path).trials
    assert [trial.experiment for trial in trials if trial.stopped == "trial trial-3-as-cut failed"] == ["trial-3"]
    assert len(trials) == PLAN.trials
    pipeline.failing = lambda name: True
    with pytest.raises(TrialError, match="trial other-1-as-cut failed"):
        sweep(replace(PLAN, name="other"), SHAPE, tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-S", "prune.depth=half"], "prune.depth: input should be a valid integer"),
        (["-S", "analyze.sublayer=blocks"], "analyze.sublayer: input should be"),
        (["-S", "prune.deep=3"], "prune.deep is not a key of params.yaml"),
        (["-S", "prune.depth=3", "--vary", "prune.depth=1:5"], "--vary and -S both have prune.depth"),
    ],
)
def test_a_setting_that_no_trial_could_have_is_one_sentence(options: list[str], said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["sweep", "--max-parameters", "60M", *options])
    assert done.exit_code == 2
    assert said in done.output
