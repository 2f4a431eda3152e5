"""Claims about the pipeline as a person runs it; each builds on one ``dvc repro`` and leaves it as it was."""

import json
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from effir.files import sha256_of
from tests.pipeline.conftest import Project, Repro, ran

pytestmark = pytest.mark.pipeline

TRAINED = {"download", "teacher_scores", "finetune_full", "self_teacher_scores", "analyze", "prune_depth", "distill"}
TRAINED |= {"score_channels"}
SINGLE = TRAINED | {"prune_width", "finetune", "export", "measure_cost"}
BEFORE_WIDTH = TRAINED | {"download_eval@tiny", "baselines@tiny"}
FROM_WIDTH = {"prune_width", "finetune", "export", "index@tiny", "evaluate@tiny", "measure_cost"}
LAST = {"report", "register"}  # they keep no MLflow run of their own
UP_TO_DATE = "Data and pipelines are up to date."
SERVED = """
import mlflow, numpy
from sentence_transformers import SentenceTransformer
mlflow.set_tracking_uri("sqlite:///mlflow.db")
served = mlflow.pyfunc.load_model("models:/effir-retriever@challenger").predict(["text"])
opened = SentenceTransformer("models/retriever", trust_remote_code=True).encode(["text"])
print("DIFFERENCE", numpy.shape(served), float(numpy.abs(served - opened).max()))
"""


def wait_for(condition: Callable[[], Any], seconds: float, what: str, every: float = 0.05) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(every)


class Store:
    """The MLflow store of the clone."""

    def __init__(self, project: Project) -> None:
        from mlflow import MlflowClient

        uri = f"sqlite:///{project.root / 'mlflow.db'}"
        self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self.experiment = self.client.get_experiment_by_name("effir").experiment_id

    def pipelines(self, experiment: str) -> list[Any]:
        """Pipeline runs of a DVC experiment, the newest first."""
        return list(self.client.search_runs([self.experiment], f"tags.`effir.experiment` = '{experiment}'"))

    def stages(self, pipeline: Any) -> list[Any]:
        """Runs nested in a pipeline run."""
        return list(self.client.search_runs([self.experiment], f"tags.`mlflow.parentRunId` = '{pipeline.info.run_id}'"))

    def names(self, pipeline: Any, *, cached: bool) -> set[str]:
        """Stages nested in a pipeline run: those shown as cached, or those that ran."""
        runs = self.stages(pipeline)
        return {r.data.tags["effir.stage"] for r in runs if ("effir.cached" in r.data.tags) == cached}


def test_repro_runs_every_stage_once_and_leaves_nothing_to_do(repro: Repro) -> None:
    assert sorted(ran(repro.output)) == sorted(BEFORE_WIDTH | FROM_WIDTH | LAST)
    assert repro.project.dvc("status").strip() == UP_TO_DATE
    again = repro.project.dvc("repro")
    assert not ran(again)
    assert UP_TO_DATE in again


def test_git_keeps_figures_and_no_big_artifact(repro: Repro) -> None:
    # The fixture has committed all that git does not ignore.
    tracked = set(repro.project.git("ls-files").split())
    assert {"dvc.lock", "metrics/tiny.json", "metrics/cost.json", "baselines/tiny.json"} <= tracked
    assert {
        f"reports/{name}.json" for name in ("redundancy", "drop_order", "slimming", "finetune_loss", "tiny-queries")
    } <= tracked
    made = [name for name in tracked if name.split("/")[0] in {"models", "data", "indexes", "runs", "mlruns"}]
    assert sorted(made) == ["data/.gitignore", "models/.gitignore"]
    assert not [name for name in tracked if name.endswith((".safetensors", ".db", ".faiss"))]
    assert (repro.project.root / "runs/index@tiny.json").is_file()


def test_metrics_have_the_promised_figures(repro: Repro) -> None:
    quality, cost = repro.project.json("metrics/tiny.json"), repro.project.json("metrics/cost.json")
    promised = {"ndcg_at_10", "ndcg_at_10_low", "ndcg_at_10_high", "recall_at_100", "mrr_at_10", "map_at_100"}
    differences = {f"vs_{name}{end}" for name in ("bm25", "small") for end in ("", "_low", "_high")}
    assert (
        promised | differences | {"queries", "bm25_ndcg_at_10", "small_ndcg_at_10", "documents_cut"} <= quality.keys()
    )
    theirs = repro.project.json("baselines/tiny.json")["small"]
    assert quality["vs_small"] == pytest.approx(quality["ndcg_at_10"] - theirs["metrics"]["ndcg_at_10"])
    assert quality["queries"] == 20
    assert quality["ndcg_at_10_low"] <= quality["ndcg_at_10"] <= quality["ndcg_at_10_high"]
    assert {"parameters", "parameters_base", "flops_speedup", "query_speedup", "document_speedup"} <= cost.keys()
    assert {"small_document_speedup", "small_queries_per_second", "small_bytes"} <= cost.keys()
    # The encoder is the base model with mean pooling: it has the same layers.
    assert cost["small_parameters_without_embeddings"] == cost["parameters_base_without_embeddings"]
    # 2 of 8 MLPs are dropped and a quarter of the other channels, so 0.75 · 0.75 of 8 · 128 channels stay.
    assert sum(repro.project.json("reports/slimming.json")["widths"]) == 576
    assert cost["parameters"] < cost["parameters_base"]


def test_mlflow_has_one_finished_pipeline_run_with_its_stages_nested(repro: Repro) -> None:
    store = Store(repro.project)
    (pipeline,) = store.pipelines("workspace")
    assert pipeline.info.status == "FINISHED"
    assert store.names(pipeline, cached=False) == BEFORE_WIDTH | FROM_WIDTH
    assert {run.info.status for run in store.stages(pipeline)} == {"FINISHED"}
    assert pipeline.data.params["prune.width"] == "0.75"
    assert pipeline.data.metrics["tiny/ndcg_at_10"] == repro.project.json("metrics/tiny.json")["ndcg_at_10"]
    version = store.client.get_model_version_by_alias("effir-retriever", "challenger")
    assert version.run_id == pipeline.info.run_id


def test_the_registered_model_gives_the_vectors_of_the_retriever(repro: Repro) -> None:
    output = repro.project.succeed(sys.executable, "-c", SERVED)
    found = re.search(r"DIFFERENCE \((\d+), (\d+)\) (\S+)", output)
    assert found, output
    assert (int(found[1]), int(found[2])) == (1, 64)
    assert float(found[3]) < 1e-6


def test_a_new_width_costs_a_cut_and_what_follows_and_no_scoring(project: Project) -> None:
    output = project.dvc("exp", "run", "--name", "narrow", "--set-param", "prune.width=0.6")
    assert set(ran(output)) == FROM_WIDTH | LAST
    store = Store(project)
    (pipeline,) = store.pipelines("narrow")
    assert pipeline.info.status == "FINISHED"
    assert store.names(pipeline, cached=False) == FROM_WIDTH
    assert store.names(pipeline, cached=True) == BEFORE_WIDTH
    files = {"metrics/tiny.json", "metrics/cost.json", "reports/redundancy.json", "reports/slimming.json"}
    assert shown(project)["narrow"] == {"width": 0.6, "metrics": files}


def test_the_cut_model_is_distilled_from_its_uncompressed_model(project: Project) -> None:
    assert project.json("data/self_teacher/teacher.json")["kind"] == "bi-encoder"
    before = sha256_of(project.root / "models/finetuned")
    set_param(project, "finetune", "self_distillation", False)
    assert "finetune" in ran(project.dvc("repro", "finetune"))
    assert sha256_of(project.root / "models/finetuned") != before


def test_another_backend_and_fewer_tokens_train_nothing_again_and_travel_in_the_retriever(project: Project) -> None:
    finetuned = locked(project)["models/finetuned"]
    backend = ("retriever.backend=openvino", "retriever.precision=int8", "retriever.max_drop=0.9")
    settings = (*backend, "retriever.vocabulary=train")
    output = project.dvc("exp", "run", "--name", "quantised", *(w for s in settings for w in ("--set-param", s)))
    assert set(ran(output)) == {"export", "index@tiny", "evaluate@tiny", "measure_cost"} | LAST
    assert locked(project)["models/finetuned"] == finetuned
    graph = project.root / "models/retriever/openvino/int8"
    assert sorted(path.name for path in graph.iterdir()) == ["export.json", "model.bin", "model.xml"]
    assert rows(project, "retriever") < rows(project, "finetuned")
    assert project.json("metrics/cost.json")["served_query_speedup"] > 0
    # Above the answer the terminal may show how far int8 is from float32.
    assert json.loads(project.succeed(project.python, "-m", "effir.cli", "search", "a text", "--json").splitlines()[-1])


def rows(project: Project, model: str) -> int:
    """The rows of a model's embedding."""
    return int(project.json(f"models/{model}/config.json")["vocab_size"])


def test_two_queued_experiments_and_a_repro_at_once_write_one_store_and_do_not_mix(project: Project) -> None:
    # One of them also changes the set: outs of the set before it are still there, in git and in dvc.lock.
    project.dvc("exp", "run", "--queue", "--name", "half", "--set-param", "prune.width=0.5")
    sets = ("--set-param", "data.eval=[other]")
    project.dvc("exp", "run", "--queue", "--name", "moved", "--set-param", "prune.width=0.4", *sets)
    set_param(project, "prune", "width", 0.625)
    with project.started("queue", "start", "--jobs", "2"):
        assert set(ran(project.dvc("repro"))) == FROM_WIDTH | LAST
        wait_for(
            lambda: not re.search("Queued|Running", project.dvc("queue", "status")), 280, "the queue ends", every=5
        )
    status = project.dvc("queue", "status")
    assert status.count("Success") == 2, status + logs(project, "half") + logs(project, "moved")
    store = Store(project)
    (half,), (moved,), beside = store.pipelines("half"), store.pipelines("moved"), store.pipelines("workspace")[0]
    widths = {
        name: run.data.params["prune.width"] for name, run in (("half", half), ("moved", moved), ("repro", beside))
    }
    assert widths == {"half": "0.5", "moved": "0.4", "repro": "0.625"}
    assert {run.info.status for run in (half, moved, beside)} == {"FINISHED"}
    assert store.names(half, cached=True) == store.names(beside, cached=True) == BEFORE_WIDTH
    assert store.names(half, cached=False) == store.names(beside, cached=False) == FROM_WIDTH
    assert "other/ndcg_at_10" in moved.data.metrics
    assert "tiny/ndcg_at_10" not in moved.data.metrics
    ours = {f"{stage}@other" for stage in ("download_eval", "baselines", "index", "evaluate")}
    assert store.names(moved, cached=True) | store.names(moved, cached=False) == SINGLE | ours
    # Each run has the size of its own model.
    kept = {run.info.run_id: run.data.metrics["cost/parameters_without_embeddings"] for run in (half, moved, beside)}
    assert kept[moved.info.run_id] < kept[half.info.run_id] < kept[beside.info.run_id]
    shown_widths = {name: experiment["width"] for name, experiment in shown(project).items()}
    assert (shown_widths["half"], shown_widths["moved"]) == (0.5, 0.4)


def set_param(project: Project, section: str, key: str, value: object) -> None:
    path = project.root / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params[section][key] = value
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def logs(project: Project, experiment: str) -> str:
    return project.run(sys.executable, "-m", "dvc", "queue", "logs", experiment).stdout


def shown(project: Project) -> dict[str, dict[str, Any]]:
    """Experiments as ``dvc exp show`` tells them apart: name to width and files of metrics."""
    rows = json.loads(project.dvc("exp", "show", "--json"))
    found = [state for row in rows for experiment in row["experiments"] or [] for state in experiment["revs"]]
    return {state["name"]: _described(state["data"]) for state in found if state["name"]}


def _described(data: Mapping[str, Any]) -> dict[str, Any]:
    width = data["params"]["params.yaml"]["data"]["prune"]["width"]
    return {"width": width, "metrics": set(data["metrics"])}


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("prune.width=1.6", r"prune\.width.*1\.6"),
        ("prune.depth=31", r"prune\.depth.*31"),
        ("finetune.learning_rate=fast", r"finetune\.learning_rate.*fast"),
        ("data.eval=[nosuchset]", r"nosuchset"),
    ],
)
def test_bad_input_gives_one_sentence_and_spoils_nothing(project: Project, setting: str, sentence: str) -> None:
    done = project.run(sys.executable, "-m", "dvc", "exp", "run", "--set-param", setting)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    (said,) = re.findall(r"^Error: (.*)$", done.stdout, re.MULTILINE)
    assert re.search(sentence, said), said
    project.restore()
    assert project.dvc("status").strip() == UP_TO_DATE


def test_a_missing_stage_output_names_the_command_that_makes_it(project: Project) -> None:
    (project.root / "reports/drop_order.json").unlink()
    done = project.run(project.python, "-m", "stages.prune_depth")
    assert done.returncode == 2
    assert done.stdout.strip().splitlines()[-1] == (
        "Error: reports/drop_order.json is missing: run `dvc repro analyze`"
    )
    assert "Traceback" not in done.stdout
    assert (project.root / "models/depth/config.json").is_file()


def test_a_killed_training_leaves_no_process_and_goes_on_from_its_checkpoint(repro: Repro, project: Project) -> None:
    whole = locked(project)["models/finetuned"]
    forget(project, "finetune")
    with repro.project.started("repro", "finetune") as dvc:  # by the real Python, not by warm.py
        wait_for(lambda: checkpoint(project) >= 4, 240, "training passes step 4")
        below = psutil.Process(dvc.pid).children(recursive=True)
        dvc.send_signal(signal.SIGKILL)
    reached = checkpoint(project)
    assert below
    wait_for(lambda: not any(alive(process) for process in below), 3, "the stage ends after DVC")

    output = project.dvc("repro")
    assert ran(output)[0] == "finetune"
    steps = {int(step) for step in re.findall(r"(\d+)/30 \[", output)} - {0}
    assert min(steps) > reached  # the bar starts where the checkpoint was
    assert locked(project)["models/finetuned"] == whole  # byte for byte, so every metric is the same
    assert set(ran(output)) == {
        "finetune",
        "register",
    }  # the run of finetune is a new one, so the pipeline's run is too
    store = Store(project)
    trained = [r for r in store.stages(store.pipelines("workspace")[0]) if r.data.tags["effir.stage"] == "finetune"]
    statuses = [run.info.status for run in trained]
    assert sorted(statuses) == ["FINISHED", "KILLED"]


def locked(project: Project) -> dict[str, str]:
    """Path to hash of every out in dvc.lock."""
    stages = yaml.safe_load((project.root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def forget(project: Project, stage: str) -> None:
    """Let DVC know nothing of a stage, as before its first run."""
    path = project.root / "dvc.lock"
    lock = yaml.safe_load(path.read_text(encoding="utf-8"))
    del lock["stages"][stage]
    path.write_text(yaml.safe_dump(lock), encoding="utf-8")
    for state in (".dvc/cache/runs", ".effir/checkpoints"):
        shutil.rmtree(project.root / state, ignore_errors=True)


def checkpoint(project: Project) -> int:
    """The step of the last whole checkpoint, 0 where there is none."""
    folders = (project.root / ".effir/checkpoints").glob("finetuned-*/checkpoint-*/trainer_state.json")
    return max((int(Path(path).parent.name.removeprefix("checkpoint-")) for path in folders), default=0)


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
