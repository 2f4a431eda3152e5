import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from effir.cli import main
from effir.cli.train import _outcome_lines
from effir.data.pairs import Pair
from effir.errors import EffirError
from effir.evaluation.significance import PairedTest
from effir.lab.baselines import Baseline
from effir.lab.budget import (
    DOCUMENT_SECONDS,
    EXAMPLE_SECONDS,
    FIXED_SECONDS,
    LEAST,
    PAIR_SECONDS,
    START_SECONDS,
    budget_for,
    pace_of,
)
from effir.lab.table_outcome import Outcome, System, _advice
from effir.lab.table_training import keep_plan, make_table, plan_training
from effir.params import load_params

ROOT = Path(__file__).parents[2]
SIZES = {"finetune_full": 16, "distill": 8, "finetune": 32}
JOB = (SIZES, 5000, 0)  # questions, documents


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    with (tmp_path / "tickets.csv").open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(["query", "document"])
        rows.writerows([f"how do I do task {i}?", f"Task {i} is done by tool {i}."] for i in range(200))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


def train(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["train", *arguments])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_steps_are_the_most_that_fit_and_stay_in_proportion() -> None:
    # What is left of 30 minutes, over the seconds of three steps of finetune_full, four of distill, two of finetune,
    # and of the teachers' reading of the 64 questions that these two steps read.
    left = 30 * 60 - START_SECONDS - FIXED_SECONDS
    seconds = {"finetune_full": 3 * 16, "distill": 4 * 8, "finetune": 2 * 32}
    unit = sum(pairs * PAIR_SECONDS[name] for name, pairs in seconds.items()) + 64 * EXAMPLE_SECONDS
    units = int(left / unit)
    found = budget_for(30, SIZES, 50_000, 0)
    assert found.steps == {"finetune_full": 3 * units, "distill": 4 * units, "finetune": 2 * units}
    assert found.examples == 64 * units
    assert 30 * 60 - unit < found.total <= 30 * 60


def test_the_default_budget_takes_what_the_default_run_took() -> None:
    # 90 and 60 steps and 2,656 documents, with no second reading of the documents: the seconds in budget.py and
    # the starts of the programs.
    sizes = {**SIZES, "distill": 0}
    minutes = (224 + 243 + 84 + 63 + FIXED_SECONDS + START_SECONDS + 2 * DOCUMENT_SECONDS * 2656) / 60
    found = budget_for(minutes + 0.05, sizes, questions=2000, documents=2656)
    assert found.steps == {"finetune_full": 90, "distill": 0, "finetune": 60}


def test_fewer_questions_than_the_steps_read_are_all_used() -> None:
    assert budget_for(30, SIZES, questions=300, documents=0).examples == 300


def test_a_training_that_is_off_gets_no_steps_and_leaves_its_time_to_the_others() -> None:
    found = budget_for(30, {**SIZES, "finetune_full": 0}, questions=50_000, documents=0)
    assert found.steps["finetune_full"] == 0
    assert found.steps["finetune"] > budget_for(30, SIZES, 50_000, 0).steps["finetune"]


def test_on_a_machine_of_half_the_speed_the_rest_of_the_time_holds_half_the_steps() -> None:
    # Twice the minutes, less the second start of the programs, which takes as long on every machine.
    fast, slow = budget_for(30, *JOB), budget_for(60 - START_SECONDS / 60, *JOB, pace=2.0)
    assert slow.steps == fast.steps


def test_too_few_minutes_name_the_fewest_that_are_enough() -> None:
    with pytest.raises(EffirError, match=r"5 minutes are too short: .* Give --minutes (\d+) or more") as refused:
        budget_for(5, *JOB)
    enough = int(str(refused.value).split("--minutes ")[1].split()[0])
    assert budget_for(enough, *JOB).steps["finetune_full"] >= LEAST
    with pytest.raises(EffirError):
        budget_for(enough - 1, *JOB)


def test_the_pace_is_the_median_so_a_resumed_training_does_not_decide_it() -> None:
    pairs = {"finetune_full": 1920, "distill": 960, "finetune": 1920}
    seconds = {name: 3 * PAIR_SECONDS[name] * count for name, count in pairs.items()} | {"finetune": 20.0}
    assert pace_of({name: (seconds[name], pairs[name]) for name in pairs}) == pytest.approx(3)


def test_short_trainings_tell_no_pace() -> None:
    assert pace_of({"finetune": (9.0, 30)}) is None


def test_the_pace_of_the_last_run_counts_for_the_same_base_model_alone(project: Path) -> None:
    params = load_params()
    made = {"finetune.steps": 60, "finetune.batch_size": 32}
    lock = {"download": {"params": {"params.yaml": {"model": {"base": params.model.base}}}}}
    lock["finetune"] = {"params": {"params.yaml": made}}
    (project / "dvc.lock").write_text(yaml.safe_dump({"stages": lock}))
    (project / "runs").mkdir()
    seconds = 10 * PAIR_SECONDS["finetune"] * 60 * 32
    (project / "runs/finetune.json").write_text(json.dumps({"seconds": seconds}))
    slow = json.loads(train("tickets.csv", "--dry-run", "--json", "--minutes", "300").stdout)
    assert "by the times of the last run here" in slow["notes"]
    lock["download"] = {"params": {"params.yaml": {"model": {"base": "hub:other/model@main"}}}}
    (project / "dvc.lock").write_text(yaml.safe_dump({"stages": lock}))
    other = json.loads(train("tickets.csv", "--dry-run", "--json", "--minutes", "300").stdout)
    assert "by the times of the last run here" not in other["notes"]
    assert other["steps"]["finetune"] > slow["steps"]["finetune"]


def test_a_kept_plan_stays_until_the_minutes_or_the_table_change(project: Path) -> None:
    def table(count: int) -> object:
        pairs = [Pair(f"question {i}", "", f"answer {i}") for i in range(count)]
        return make_table("tickets", pairs, (), project / f"draft{count}", 0.1, least=2)

    params, first = load_params(), table(200)
    plan = plan_training(first, 30, params)
    keep_plan(first, plan)
    slower = project / "dvc.lock"
    base = {"download": {"params": {"params.yaml": {"model": {"base": params.model.base}}}}}
    made = {"finetune": {"params": {"params.yaml": {"finetune": {"steps": 60, "batch_size": 32}}}}}
    slower.write_text(yaml.safe_dump({"stages": base | made}))
    (project / "runs").mkdir()
    (project / "runs/finetune.json").write_text(json.dumps({"seconds": 5000.0}))
    assert plan_training(first, 30, params).settings == plan.settings
    assert plan_training(first, 300, params).settings != plan.settings
    assert plan_training(table(201), 300, params).asked != plan.asked


def test_a_dry_run_shows_the_plan_and_writes_nothing(project: Path) -> None:
    before = files(project)
    result = train("tickets.csv", "--dry-run")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("tickets.csv: 200 documents, ")
    assert "  data.train: apidocs -> tickets" in lines
    assert any(line.startswith("  finetune_full.steps: 90 -> ") for line in lines)
    assert "Changes of params.yaml (to go back: git checkout params.yaml):" in lines
    assert files(project) == before


def test_the_settings_are_valid_and_name_the_content_of_the_collection(project: Path) -> None:
    found = json.loads(train("tickets.csv", "--dry-run", "--json").stdout)
    changes = {key: new for key, _, new in found["changes"]}
    assert changes["data.collections.tickets"].startswith("data/tables/tickets#sha256=")
    assert (changes["data.train"], changes["data.dev"], changes["data.eval"]) == ("tickets", "tickets", ["tickets"])
    assert changes["analyze.texts"] == 200  # the table has fewer documents than the 256 of params.yaml
    with (project / "tickets.csv").open("a", newline="") as table:
        table.write("one more?,One more.\n")
    again = json.loads(train("tickets.csv", "--dry-run", "--json").stdout)
    assert {key: new for key, _, new in again["changes"]}["data.collections.tickets"] != changes[
        "data.collections.tickets"
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("missing.csv",), "missing.csv is missing"),
        (("tickets.csv", "--query", "question"), "tickets.csv has no column 'question'"),
        (("tickets.csv", "--name", "scifact"), "'scifact' is the name of another collection"),
        (("tickets.csv", "--name", "../up"), "'../up' is the name of another collection, or not a name"),
        (("tickets.csv", "--minutes", "3"), "3 minutes are too short"),
        (("tickets.csv", "--test-share", "0"), "--test-share must be above 0 and below 1, got 0"),
        (("tickets.csv", "--test-share", "0.99"), "different answers are left to train on, but a batch needs 32"),
        (("tickets.csv", "--delimiter", "::"), "--delimiter is '::': give one character"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_sentence_and_writes_nothing(project: Path, arguments: tuple[str, ...], said: str) -> None:
    before = files(project)
    result = train(*arguments)
    assert result.exit_code == 2
    assert result.output.startswith("Error: ")
    assert said in result.output
    assert result.output.count("\n") == 1
    assert files(project) == before


def test_the_outcome_names_every_system_with_its_interval_speed_and_the_better_choice() -> None:
    systems = (
        System("effir", 0.5, 0.4, 0.6, None, 1.9),
        System("uncompressed", 0.52, 0.4, 0.6, PairedTest(-0.02, -0.05, 0.01, 0.2, 50), 1.0),
        System("BM25", 0.4, 0.3, 0.5, PairedTest(0.1, 0.05, 0.15, 0.001, 50)),
        System("a-much-longer-name-of-one", 0.5, 0.4, 0.6, PairedTest(0.0, -0.1, 0.1, 1.0, 50), 9.04),
    )
    lines = _outcome_lines(Outcome(50, systems, 0.5, tuple(_advice([baseline("BM25", 0.05, 0.15)], True))))
    assert [line.split()[0] for line in lines[3:7]] == [system.name for system in systems]
    assert lines[3].split() == ["effir", "0.500", "0.400", "to", "0.600"]
    assert lines[7].split() == ["effir", "-", "uncompressed", "-0.020", "-0.050", "to", "0.010"]
    assert lines[8].split() == ["effir", "-", "BM25", "+0.100", "0.050", "to", "0.150"]
    assert len({len(line) for line in lines[2:10]}) == 1  # columns stay aligned
    assert lines[10].endswith("relative to that model: effir 1.9, a-much-longer-name-of-one 9.0.")
    assert "The retriever has higher nDCG@10 than BM25 on these questions: use the retriever." in lines


def baseline(name: str, low: float, high: float, faster: float | None = None) -> Baseline:
    return Baseline(name, 0.5, low, high, faster)


@pytest.mark.parametrize(
    ("baselines", "said"),
    [
        ([baseline("BM25", 0.01, 0.2)], "has higher nDCG@10 than BM25 on these questions: use the retriever"),
        ([baseline("BM25", -0.2, -0.01)], "BM25 is the better choice, because its nDCG@10 is significantly higher"),
        ([baseline("BM25", -0.1, 0.1)], "BM25 is the better choice, because it is statistically indistinguishable and"),
        ([baseline("BM25", 0.01, 0.2), baseline("small", -0.1, 0.1, 4.5)], "small is the better choice"),
        (
            [baseline("BM25", 0.01, 0.2), baseline("small", -0.1, 0.1, 0.5)],
            "has higher nDCG@10 than BM25 and is statistically indistinguishable from small, but faster",
        ),
    ],
)
def test_the_intervals_of_the_differences_decide_between_the_retriever_and_the_baselines(
    baselines: list[Baseline], said: str
) -> None:
    assert said in _advice(baselines, True)[0]


def test_without_an_uncompressed_retriever_the_advice_says_why() -> None:
    assert "finetune_full.steps is 0" in _advice([baseline("BM25", -1, 1)], False)[-1]


def test_a_few_answers_to_many_questions_cannot_fill_a_batch(tmp_path: Path) -> None:
    pairs = [Pair(f"question {i}", "", f"answer {i % 5}") for i in range(100)]
    with pytest.raises(EffirError, match=r"with 5 different answers .* a batch needs 32: add more rows"):
        make_table("tickets", pairs, (), tmp_path / "draft", 0.1, least=32)
