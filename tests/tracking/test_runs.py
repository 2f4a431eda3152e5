import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from effir.errors import EffirError
from effir.params import flatten
from effir.tracking.runs import finish_pipeline, pipeline_identity, pipeline_run
from effir.tracking.stage_run import stage_run
from effir.tracking.store import open_store, tracking_uri

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the module; tests keep apart by their params. Its name has what must be quoted in addresses."""
    folder: Path = tmp_path_factory.mktemp("a project 100%41")
    return folder


@pytest.fixture(autouse=True)
def _in_the_project(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.chdir(root)


def get(run_id: str) -> Any:
    return open_store().client.get_run(run_id)


def nested(pipeline: str) -> list[Any]:
    store = open_store()
    return list(store.client.search_runs([store.experiment_id], f"tags.`mlflow.parentRunId` = '{pipeline}'"))


def start(code: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_flatten_joins_keys_and_writes_what_is_no_scalar_as_json() -> None:
    params = {"a": {"b": {"c": 1}, "d": []}, "e": {}, "f": True, "g": None, "h": {"x": {}}}
    assert flatten(params) == {"a.b.c": 1, "a.d": "[]", "e": "{}", "f": True, "g": "null", "h.x": "{}"}


def test_the_store_is_mlflows_default_place_in_the_main_checkout(root: Path) -> None:
    store = open_store()
    assert (root / "mlflow.db").is_file()
    with stage_run("place", {"seed": "place"}, root / "runs/place.json") as run:
        Path("note.txt").write_text("kept")
        store.client.log_artifact(run.id, "note.txt")
    assert (root / "mlruns" / "effir" / run.id / "artifacts" / "note.txt").read_text() == "kept"
    experiment = store.client.get_experiment_by_name("effir")
    assert experiment.experiment_id == store.experiment_id
    assert "`cost/kept_share`" in experiment.tags["mlflow.note.content"]  # MLflow shows it as the description


def test_the_environment_names_another_store_and_a_relative_one_is_in_the_checkout(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")
    assert tracking_uri() == "http://tracking.example:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///sub/other.db")
    assert tracking_uri().endswith("/a%20project%20100%25410/sub/other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////srv/effir.db")
    assert tracking_uri() == "sqlite:////srv/effir.db"


def test_a_file_that_is_no_store_is_refused_at_once_in_one_sentence(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "broken.db").write_text("this is not a database, and long enough to have a header " * 10)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///broken.db")
    with pytest.raises(EffirError, match=r"broken\.db does not work \(file is not a database\): correct MLFLOW"):
        open_store()


def test_identity_is_the_experiment_its_baseline_and_all_params(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = pipeline_identity({"a": 1, "b": {"c": 2}})
    assert plain["effir.experiment"] == "workspace"
    assert plain["effir.baseline"] == "no-commit"  # the temporary folder is no git checkout
    assert pipeline_identity({"b": {"c": 2}, "a": 1}) == plain
    assert pipeline_identity({"a": 1, "b": {"c": 3}})["effir.params"] != plain["effir.params"]
    monkeypatch.setenv("DVC_EXP_NAME", "it's-bold")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "abc123")
    assert pipeline_identity({"a": 1, "b": {"c": 2}}) == plain | {
        "effir.experiment": "it's-bold",
        "effir.baseline": "abc123",
    }
    assert pipeline_run({"a": 1}) == pipeline_run({"a": 1})


def test_identity_takes_the_commit_of_a_git_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert pipeline_identity({})["effir.baseline"] == "no-commit"
    git("commit", "--allow-empty", "-m", "first")
    assert pipeline_identity({})["effir.baseline"] == git("rev-parse", "HEAD")


def test_a_stage_run_is_nested_logs_live_and_leaves_its_record(root: Path) -> None:
    params = {"seed": "nested", "finetune": {"steps": 20}}
    with stage_run("finetune", params, root / "runs/finetune.json") as run:
        run.log_metrics({"loss": 2.0, "set@k/x": 1.0, "bad": float("nan"), "worse": float("inf")}, step=10)
        assert get(run.id).data.metrics == {"loss": 2.0, "set_at_k/x": 1.0}
        assert get(run.id).info.status == "RUNNING"
        run.log_metrics({"loss": 1.0}, step=20)
    record = json.loads((root / "runs/finetune.json").read_text())
    assert record.keys() == {"stage", "run_id", "pipeline_run_id", "seconds"}
    assert (record["stage"], record["run_id"], record["pipeline_run_id"]) == ("finetune", run.id, pipeline_run(params))
    assert 0 < record["seconds"] < 60
    done = get(run.id)
    assert (done.info.status, done.info.run_name) == ("FINISHED", "finetune")
    assert done.data.tags["mlflow.parentRunId"] == record["pipeline_run_id"]
    assert get(record["pipeline_run_id"]).info.status == "RUNNING"
    history = open_store().client.get_metric_history(run.id, "loss")
    assert [(point.step, point.value) for point in history] == [(10, 2.0), (20, 1.0)]


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("no"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(143), "KILLED")]
)
def test_an_exception_ends_the_run_and_goes_on(error: BaseException, status: str, root: Path) -> None:
    params = {"seed": repr(error)}
    with pytest.raises(type(error)), stage_run("index@apidocs", params, root / "runs/index@apidocs.json") as run:
        raise error
    assert get(run.id).info.status == get(pipeline_run(params)).info.status == status
    assert not (root / "runs/index@apidocs.json").exists()
    with stage_run("index@apidocs", params, root / "runs/index@apidocs.json"):
        assert get(pipeline_run(params)).info.status == "RUNNING"
    (root / "runs/index@apidocs.json").unlink()


def open_stage(stage: str, params: dict[str, str]) -> tuple[subprocess.Popen[str], str]:
    """A process that works in a stage run for a minute, and the run's id."""
    code = f"""
import time
from pathlib import Path
from effir.tracking.stage_run import stage_run
with stage_run({stage!r}, {params!r}, Path("runs/{stage}.json")) as run:
    print(run.id, flush=True)
    time.sleep(60)
"""
    process = start(code)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_runs_left_by_killed_processes_are_closed_by_the_next_stage_and_living_ones_are_left_alone(root: Path) -> None:
    gone, dead = open_stage("finetune", {"seed": "killed"})
    living, beside = open_stage("finetune", {"seed": "living"})
    gone.send_signal(signal.SIGKILL)
    gone.wait()
    pipeline = get(dead).data.tags["mlflow.parentRunId"]
    assert {get(run).info.status for run in (dead, beside, pipeline)} == {"RUNNING"}
    with stage_run("analyze", {"seed": "next"}, root / "runs/next.json") as ours:
        assert {get(run).info.status for run in (dead, pipeline)} == {"KILLED"}
        assert {get(run).info.status for run in (beside, ours.id or "")} == {"RUNNING"}
    with stage_run("finetune", {"seed": "killed"}, root / "runs/again.json"):
        assert get(pipeline).info.status == "RUNNING"
    living.kill()
    living.wait()


def test_two_processes_at_once_make_one_store_and_one_pipeline_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both wait for the same moment, then make the schema, the experiment and the pipeline run, and write 100 points.
    code = """
import os, time
from pathlib import Path
import mlflow
from effir.tracking.stage_run import stage_run
Path(f"{os.getpid()}.ready").touch()
while len(list(Path().glob("*.ready"))) < 2:
    time.sleep(0.001)
with stage_run(f"index@{os.getpid()}", {"seed": 0}, Path(f"{os.getpid()}.json")) as run:
    for step in range(100):
        run.log_metrics({"loss": 1.0, "rate": 2.0}, step)
"""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    processes = [start(code) for _ in range(2)]
    assert [process.communicate(timeout=60) for process in processes] == [("", ""), ("", "")]  # nothing noisy
    assert [process.returncode for process in processes] == [0, 0]
    records = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert len(records) == 2
    assert len({record["pipeline_run_id"] for record in records}) == 1
    for record in records:
        assert len(open_store().client.get_metric_history(record["run_id"], "loss")) == 100
    assert len(open_store().client.search_experiments()) == 2  # MLflow's Default and ours


def test_a_process_killed_while_it_makes_the_store_leaves_none_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    process = start("from effir.tracking.store import open_store; open_store()")
    while (
        not any(path.stat().st_size for path in tmp_path.glob(".mlflow.db.*.draft/mlflow.db"))
        and process.poll() is None
    ):
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "mlflow.db").exists()
    assert pipeline_run({"seed": 0}) == pipeline_run({"seed": 0})


@pytest.fixture
def two_pipelines(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make `prune` and `finetune` in a first pipeline; in a second one, only `finetune` is made again."""
    token = str(time.time_ns())
    first, second = {"seed": token, "width": 0.7}, {"seed": token, "width": 0.6}
    for stage, params in (("prune", first), ("finetune", first), ("finetune", second)):
        with stage_run(stage, params, root / f"runs/{stage}.json") as run:
            for step in (0, 10, 20):
                run.log_metrics({f"{stage}/loss": 3.0 - step / 10}, step)
    return first, second


def finish(params: dict[str, Any], **changes: Any) -> str:
    Path("plots").mkdir(exist_ok=True)
    Path("plots/front.json").write_text("{}")
    values: dict[str, Any] = {
        "params": params,
        "stages": ["prune", "finetune"],
        "records": Path("runs"),
        "metrics": {"apidocs/ndcg_at_10": 0.5, "cost/flops_speedup": 1.67, "cost/none": float("nan")},
        "artifacts": [Path("plots/front.json")],
        "hashes": {"models/retriever": "0a.dir"},
    }
    return finish_pipeline("d10-w0.60-s0", **(values | changes))


def test_finishing_logs_everything_onto_the_pipeline_run(two_pipelines: tuple[dict[str, Any], dict[str, Any]]) -> None:
    run = get(finish(two_pipelines[1]))
    assert (run.info.status, run.info.run_name) == ("FINISHED", "d10-w0.60-s0")
    assert run.data.metrics == {"apidocs/ndcg_at_10": 0.5, "cost/flops_speedup": 1.67}
    assert run.data.params == {"seed": two_pipelines[1]["seed"], "width": "0.6"}
    artifacts = Path("mlruns/effir") / run.info.run_id / "artifacts"
    assert json.loads((artifacts / "dvc.lock.json").read_text()) == {"models/retriever": "0a.dir"}
    assert (artifacts / "plots/front.json").read_text() == "{}"


def test_a_cached_stage_is_shown_with_the_metrics_of_the_run_that_made_it(
    two_pipelines: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    runs = {run.info.run_name: run for run in nested(finish(two_pipelines[1]))}
    assert runs.keys() == {"prune", "finetune"}
    assert "effir.cached" not in runs["finetune"].data.tags
    made_by = json.loads(Path("runs/prune.json").read_text())["run_id"]
    cached = runs["prune"]
    assert (cached.data.tags["effir.cached"], cached.data.tags["effir.made_by"]) == ("true", made_by)
    assert cached.info.status == "FINISHED"
    assert cached.info.run_id != made_by
    client = open_store().client
    assert [(p.step, p.value) for p in client.get_metric_history(cached.info.run_id, "prune/loss")] == [
        (0, 3.0),
        (10, 2.0),
        (20, 1.0),
    ]


def test_finishing_twice_duplicates_nothing(two_pipelines: tuple[dict[str, Any], dict[str, Any]]) -> None:
    pipeline = finish(two_pipelines[1])
    before = {run.info.run_id for run in nested(pipeline)}
    assert finish(two_pipelines[1]) == pipeline
    assert {run.info.run_id for run in nested(pipeline)} == before
    assert len(open_store().client.get_metric_history(pipeline, "apidocs/ndcg_at_10")) == 1
    finish(two_pipelines[1], metrics={"apidocs/ndcg_at_10": 0.6})  # a changed value is a new point, and the latest
    assert get(pipeline).data.metrics["apidocs/ndcg_at_10"] == 0.6


def test_a_cached_stage_whose_run_is_in_no_store_is_still_shown(
    two_pipelines: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    record = {"stage": "prune", "run_id": "0" * 32, "pipeline_run_id": "1" * 32, "seconds": 1.0}
    Path("runs/prune.json").write_text(json.dumps(record))
    runs = {run.info.run_name: run for run in nested(finish(two_pipelines[1]))}
    assert (runs["prune"].data.metrics, runs["prune"].info.status) == ({}, "FINISHED")


def test_a_missing_record_is_named_and_ends_nothing(two_pipelines: tuple[dict[str, Any], dict[str, Any]]) -> None:
    with pytest.raises(EffirError, match=r"runs/index\.json is missing"):
        finish(two_pipelines[1], stages=["index"])
    assert get(pipeline_run(two_pipelines[1])).info.status == "RUNNING"
