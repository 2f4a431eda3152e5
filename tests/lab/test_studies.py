"""A study: what it lists is run once, kept as it lands, and never mixed with rows of other settings."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from effir.errors import EffirError
from effir.evaluation.variant import Variant
from effir.lab.settings import Value, assignment, changed_params, set_over
from effir.lab.studies import Study, in_experiments, read_study, run_study
from effir.params import Scalar, check_params, flatten

PLAN = """
question: Which?
settings: {finetune.steps: 0, prune.width: 1.0}
runs:
  full: {prune.depth: 0, finetune.steps: 10}
  mlp-2: {prune.depth: 2, prune.width: 0.5}
"""


PARAMS = {"training.seed": 0, "finetune.steps": 100, "data.mirror": "file:///here"}


class Pipeline:
    """Notes what it is asked to run and answers with a figure; fails where it is told to."""

    def __init__(self, failing: str = "") -> None:
        self.ran: list[tuple[str, dict[str, Value]]] = []
        self.failing = failing

    def run(self, name: str, settings: Mapping[str, Value], log: Path) -> Variant:
        if name == self.failing:
            raise EffirError("a stage failed")
        self.ran.append((name, dict(settings)))
        figures = {"ndcg_at_10": 0.5 + len(self.ran) / 100}
        scores, cost = {"tiny": {"q": 0.123456}}, {"kept_share": 1.0}
        return Variant(
            name,
            {**PARAMS, **settings},
            {"tiny": figures},
            scores,
            cost,
            {"tiny": "hash"},
            losses={"finetune": [(5, 0.123456)]},
            source=f"commit of {name}",
        )


def studied(
    study: Study,
    tmp_path: Path,
    pipeline: Pipeline,
    params: Mapping[str, Scalar] = PARAMS,
    only: Sequence[str] = (),
) -> list[dict[str, Any]]:
    return run_study(study, tmp_path / "results.json", tmp_path / "logs", params, pipeline.run, only)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    (tmp_path / "direct.yaml").write_text(PLAN, encoding="utf-8")
    return read_study(tmp_path / "direct.yaml")


def test_a_run_overrides_the_shared_settings(study: Study) -> None:
    assert (study.name, study.question) == ("direct", "Which?")
    assert study.runs == {
        "full": {"finetune.steps": 10, "prune.width": 1.0, "prune.depth": 0},
        "mlp-2": {"finetune.steps": 0, "prune.width": 0.5, "prune.depth": 2},
    }


def test_a_row_keeps_the_params_and_metrics_of_its_run(study: Study, tmp_path: Path) -> None:
    pipeline = Pipeline()
    rows = studied(study, tmp_path, pipeline)
    assert [name for name, _ in pipeline.ran] == ["direct-full", "direct-mlp-2"]
    assert rows[1]["params"].items() >= {"training.seed": 0, "finetune.steps": 0, "prune.depth": 2}.items()
    assert "data.mirror" not in rows[1]["params"]
    assert rows[1]["scores"] == {"tiny": {"q": 0.1235}}
    assert rows[1]["losses"] == {"finetune": [[5, 0.1235]]}
    kept = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert kept == {"question": "Which?", "baseline": "full", "compare_with": None, "rows": rows}


def test_a_null_reaches_the_pipeline_as_one(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("runs: {own: {retriever.query_prompt: null}}", encoding="utf-8")
    settings = read_study(tmp_path / "own.yaml").runs["own"]
    assert [assignment(key, value) for key, value in settings.items()] == ["retriever.query_prompt=null"]
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    assert check_params(set_over(params, settings)).retriever.query_prompt is None


def test_other_seeds_are_runs_of_their_own_after_the_others(tmp_path: Path) -> None:
    (tmp_path / "seeded.yaml").write_text(PLAN + "seeds: {mlp-2: 3, full: 2}", encoding="utf-8")
    runs = read_study(tmp_path / "seeded.yaml").runs
    assert list(runs) == ["full", "mlp-2", "mlp-2-seed1", "full-seed1", "mlp-2-seed2"]
    assert runs["mlp-2-seed2"] == {**runs["mlp-2"], "training.seed": 2}


def test_a_mapping_takes_the_place_of_the_scalar_that_params_have(tmp_path: Path) -> None:
    """A mix of training sets is several keys of a row, and `data.train` itself is none of them."""
    pipeline = Pipeline()
    params: dict[str, Scalar] = {"data.train": "apidocs", "training.seed": 0}

    def run(name: str, settings: Mapping[str, Value], log: Path) -> Variant:
        found = pipeline.run(name, settings, log)
        return replace(found, params={"data.train.qed": 2, "data.train.nq": 1, "training.seed": 0})

    def study_of(text: str) -> None:
        (tmp_path / "mixed.yaml").write_text(f"runs: {{one: {{data.train: {text}}}}}", encoding="utf-8")
        run_study(read_study(tmp_path / "mixed.yaml"), tmp_path / "results.json", tmp_path / "logs", params, run)

    study_of("{qed: 2, nq: 1}")
    study_of("{qed: 2, nq: 1}")
    assert len(pipeline.ran) == 1
    with pytest.raises(EffirError, match=r"with data\.train\.nq=1, now None"):
        study_of("{qed: 2}")


def test_a_row_that_the_study_no_longer_lists_is_kept_at_the_end(study: Study, tmp_path: Path) -> None:
    pipeline = Pipeline()
    studied(study, tmp_path, pipeline)
    shorter = replace(study, runs={"mlp-2": study.runs["mlp-2"]})
    assert [row["name"] for row in studied(shorter, tmp_path, pipeline)] == ["mlp-2", "full"]
    assert [row["name"] for row in studied(study, tmp_path, pipeline)] == ["full", "mlp-2"]
    assert len(pipeline.ran) == 2


def test_only_the_named_runs_are_made(study: Study, tmp_path: Path) -> None:
    pipeline = Pipeline()
    assert [row["name"] for row in studied(study, tmp_path, pipeline, only=["mlp-2"])] == ["mlp-2"]
    assert [row["name"] for row in studied(study, tmp_path, pipeline)] == ["full", "mlp-2"]
    assert [name for name, _ in pipeline.ran] == ["direct-mlp-2", "direct-full"]
    with pytest.raises(EffirError, match="direct has no run 'nope': name one of full, mlp-2"):
        studied(study, tmp_path, pipeline, only=["nope"])


def test_a_study_continues_with_the_interrupted_run(study: Study, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    failing, again = Pipeline(failing="direct-mlp-2"), Pipeline()
    with pytest.raises(EffirError, match="a stage failed"):
        studied(study, tmp_path, failing)
    assert [row["name"] for row in json.loads(results.read_text(encoding="utf-8"))["rows"]] == ["full"]
    rows = studied(study, tmp_path, again)
    assert [name for name, _ in again.ran] == ["direct-mlp-2"]
    assert [row["name"] for row in rows] == ["full", "mlp-2"]
    assert studied(study, tmp_path, again) == rows
    assert len(again.ran) == 1


def test_a_row_of_other_settings_is_refused(study: Study, tmp_path: Path) -> None:
    studied(study, tmp_path, Pipeline())
    changed = Study("direct", "Which?", {**study.runs, "full": {**study.runs["full"], "prune.depth": 1}})
    said = r"has 'full' with prune\.depth=0, now 1: restore that value, or remove the row and run `dvc exp"
    with pytest.raises(EffirError, match=said):
        studied(changed, tmp_path, Pipeline())


def test_rows_of_other_params_are_not_mixed_with_new_ones(study: Study, tmp_path: Path) -> None:
    studied(study, tmp_path, Pipeline())
    # What a run sets itself, and where this machine has its data, may be otherwise.
    studied(study, tmp_path, Pipeline(), {**PARAMS, "data.mirror": "file:///there"})
    with pytest.raises(EffirError, match=r"has 'full' with training\.seed=0, now 1: restore"):
        studied(study, tmp_path, Pipeline(), {**PARAMS, "training.seed": 1})


def test_a_kept_row_gets_the_settings_of_the_study_of_now(study: Study, tmp_path: Path) -> None:
    """What was params.yaml's is a setting of the study's once params.yaml says otherwise."""
    studied(study, tmp_path, Pipeline())
    runs = {name: {**settings, "training.seed": 0} for name, settings in study.runs.items()}
    later = Study("direct", "Which?", runs)
    rows = studied(later, tmp_path, Pipeline(failing="direct-full"), {**PARAMS, "training.seed": 7})
    assert [row["settings"] for row in rows] == list(runs.values())


def test_the_row_of_the_older_default_has_the_params_of_params_yaml_but_for_its_training() -> None:
    """README gives the metrics of `taylor` in the study half; its settings name the training that was the default."""
    values = flatten(yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8")))
    now = {key: value for key, value in values.items() if not key.startswith(("data.eval", "cost."))}
    rows = json.loads(Path("studies/results/half.json").read_text(encoding="utf-8"))["rows"]
    (made,) = (row["params"] for row in rows if row["name"] == "taylor")
    study = yaml.safe_load(Path("studies/half.yaml").read_text(encoding="utf-8"))
    settings = {**study["settings"], **study["runs"]["taylor"]}
    assert not changed_params(made, settings, now)
    assert "finetune_full.steps=60, now 90" in changed_params(made, {}, now)
    assert changed_params(made, {**settings, "prune.width": 0.96}, now) == "prune.width=0.66, now 0.96"


def test_a_row_without_a_newer_key_is_kept_only_while_the_key_has_its_neutral_value(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effir.lab.settings.NEUTRAL", {"training.examples": 0})
    studied(study, tmp_path, Pipeline())
    studied(study, tmp_path, Pipeline(), {**PARAMS, "training.examples": 0})
    with pytest.raises(EffirError, match=r"has 'full' with training\.examples=0, now 1600: restore"):
        studied(study, tmp_path, Pipeline(), {**PARAMS, "training.examples": 1600})


@pytest.mark.parametrize(
    ("key", "value", "decides", "nothing", "something"),
    [
        ("distill.learning_rate", 0.002, "distill.steps", 0, 40),
        ("finetune.self_distillation", False, "finetune.steps", 0, 40),
        ("prune.keep_gates", False, "prune.width", 1.0, 0.7),
        ("analyze.sublayer", "mlp", "prune.depth", 0, 5),
        ("finetune_full.learning_rate", 0.002, "finetune_full.steps", 0, 40),
        ("finetune.learning_rate", 0.002, "finetune.steps", 0, 40),
        ("prune.method", "taylor", "prune.width", 1.0, 0.7),
        ("prune.steps", 20, "prune.width", 1.0, 0.7),
        ("analyze.criterion", "greedy", "prune.depth", 0, 5),
    ],
)
def test_settings_of_a_stage_without_work_have_no_effect(
    tmp_path: Path, key: str, value: Scalar, decides: str, nothing: float, something: float
) -> None:
    later = {**PARAMS, key: value}
    idle = Study("direct", "Which?", {"full": {decides: nothing}})
    studied(idle, tmp_path, Pipeline())
    assert len(studied(idle, tmp_path, Pipeline(failing="direct-full"), later)) == 1
    at_work = Study("trained", "Which?", {"full": {decides: something}})
    studied(at_work, tmp_path / "trained", Pipeline())
    with pytest.raises(EffirError, match=rf"with {key}=None, now {value}: restore"):
        studied(at_work, tmp_path / "trained", Pipeline(), later)


def test_the_command_line_sets_only_where_data_are() -> None:
    in_experiments(print, {"data.mirror": "file:///there"}, PARAMS)
    with pytest.raises(
        EffirError, match=r"-S finetune\.steps would change the metrics of a study: write it into the study"
    ):
        in_experiments(print, {"finetune.steps": 0}, PARAMS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("runs: {}", "lists no runs"),
        (
            "runs: {a: {}}\nwhy: x",
            "'why' is not a key of a study: use compare_with, question, runs, seeds, settings",
        ),
        ("runs: {a: {}}\ncompare_with: b", "compare_with is 'b', which is not one of the runs: name one of a"),
        ("runs: {a: {}}\nseeds: {a: two}", "seeds must be a number of seeds for a run"),
        ("runs: {a: {}}\nseeds: 3", "seeds must be a number of seeds for a run"),
        ("runs: {a: {training.seed: 1}}\nseeds: {a: 2}", "'a' has seeds and sets training.seed: remove one of them"),
        ("runs: {a: {}}\nseeds: {b: 2}", "seeds has 'b', which is not one of the runs: name one of a"),
        ("runs: {a: prune.depth=3}", r"'a' has no keys: write them as \{prune.depth: 3\}, or \{\} for no keys"),
        ("runs: {a: {}}\nsettings: [b]", "'settings' has no keys"),
        ("runs: [", "is not YAML"),
    ],
)
def test_a_wrong_plan_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "plan.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(EffirError, match=said):
        read_study(tmp_path / "plan.yaml")


def test_a_missing_plan_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EffirError, match=r"none\.yaml is missing: name a file of studies/"):
        read_study(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", sorted(Path("studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_committed_study_sets_params_that_exist_to_what_they_may_be(path: Path) -> None:
    study = read_study(path)
    assert study.question
    for settings in study.runs.values():
        values = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
        for key, value in settings.items():
            section, _, name = key.partition(".")
            assert name in values[section]
            values[section][name] = value
        check_params(values)


@pytest.mark.parametrize("path", sorted(Path("studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_committed_row_was_made_with_the_settings_of_its_study(path: Path) -> None:
    study = read_study(path)
    found = json.loads((path.parent / "results" / f"{path.stem}.json").read_text(encoding="utf-8"))
    assert (found["question"], found["compare_with"]) == (study.question, study.compare_with)
    for row in (row for row in found["rows"] if row["name"] in study.runs):
        assert not changed_params(row["params"], study.runs[row["name"]], {}), row["name"]
