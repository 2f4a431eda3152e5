"""A study: what it lists is run once, kept as it lands, and never mixed with rows of other settings."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from effir.comparison import Variant
from effir.errors import EffirError
from effir.params import check_params
from effir.studies import Study, read_study, run_study, series
from effir.sweeping.space import Value

PLAN = """
question: Which?
start: full
settings: {finetune.steps: 0, prune.width: 1.0}
runs:
  full: {prune.depth: 0}
  mlp-2: {prune.depth: 2, prune.width: 0.5}
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


class Pipeline:
    """Notes what it is asked to run and answers with a figure; fails where it is told to."""

    def __init__(self, failing: str = "") -> None:
        self.ran: list[tuple[str, dict[str, Value]]] = []
        self.fetched: list[str] = []
        self.failing = failing

    def run(self, name: str, settings: Mapping[str, Value], log: Path) -> Variant:
        if name == self.failing:
            raise EffirError("a stage failed")
        self.ran.append((name, dict(settings)))
        figures = {"ndcg_at_10": 0.5 + len(self.ran) / 100}
        return Variant(name, {}, {"tiny": figures}, {"tiny": {"q": 0.123456}}, {"kept_share": 1.0}, {})

    def fetch(self, experiment: str, into: Path) -> None:
        self.fetched.append(experiment)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    (tmp_path / "direct.yaml").write_text(PLAN, encoding="utf-8")
    return read_study(tmp_path / "direct.yaml")


def test_runs_share_settings_and_what_they_say_themselves_comes_first(study: Study) -> None:
    assert (study.name, study.question, study.start) == ("direct", "Which?", "full")
    # The run that the others start from is made as it is: what they share is not for it.
    assert study.runs == {
        "full": {"prune.depth": 0},
        "mlp-2": {"finetune.steps": 0, "prune.width": 0.5, "prune.depth": 2},
    }


def test_others_start_from_the_healed_model_by_a_path_within_the_project(study: Study, tmp_path: Path) -> None:
    pipeline = Pipeline()
    rows = run_study(study, tmp_path / "results.json", tmp_path / ".effir/studies", pipeline.run, pipeline.fetch)
    assert [name for name, _ in pipeline.ran] == ["direct-full", "direct-mlp-2"]
    assert pipeline.fetched == ["direct-full"]
    assert "model.base" not in rows[0]["settings"]
    assert rows[1]["settings"]["model.base"] == ".effir/studies/direct-full"
    assert rows[1]["scores"] == {"tiny": {"q": 0.1235}}
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == {"question": "Which?", "rows": rows}


def test_a_study_goes_on_with_the_run_that_it_lost(study: Study, tmp_path: Path) -> None:
    results, folder = tmp_path / "results.json", tmp_path / ".effir/studies"
    failing, again = Pipeline(failing="direct-mlp-2"), Pipeline()
    with pytest.raises(EffirError, match="a stage failed"):
        run_study(study, results, folder, failing.run, failing.fetch)
    assert [row["name"] for row in json.loads(results.read_text(encoding="utf-8"))["rows"]] == ["full"]
    rows = run_study(study, results, folder, again.run, again.fetch)
    assert [name for name, _ in again.ran] == ["direct-mlp-2"]
    assert [row["name"] for row in rows] == ["full", "mlp-2"]
    assert run_study(study, results, folder, again.run, again.fetch) == rows
    assert len(again.ran) == 1


def test_a_row_of_other_settings_is_refused(study: Study, tmp_path: Path) -> None:
    pipeline, results = Pipeline(), tmp_path / "results.json"
    run_study(study, results, tmp_path / ".effir/studies", pipeline.run, pipeline.fetch)
    changed = Study("direct", "Which?", {**study.runs, "full": {"prune.depth": 1}}, "full")
    with pytest.raises(EffirError, match="has 'full' with other settings than the study: remove that row, run again"):
        run_study(changed, results, tmp_path / ".effir/studies", pipeline.run, pipeline.fetch)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("runs: {}", "lists no runs"),
        ("runs: {a: {}}\nstart: b", "starts from 'b', which is none of its runs"),
        ("runs: {a: {}}\nwhy: x", "has the key 'why': a study has question, runs, settings, start"),
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


def test_curves_are_grouped_and_sorted() -> None:
    rows = [{"settings": {"d": d, "k": k}, "quality": {"s": {"ndcg_at_10": d / 10}}} for d, k in ((5, "a"), (2, "a"))]
    assert series([*rows, {"settings": {}, "quality": {}}], x="d", by="k", of="s") == {"a": [(2, 0.2), (5, 0.5)]}
