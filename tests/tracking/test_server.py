"""The same story as on sqlite, over HTTP: each test runs against every server that `server` starts."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from effir.cli import main
from effir.files import sha256_of
from effir.model.retriever import build_retriever, save_retriever
from effir.tracking.registry import register_retriever
from effir.tracking.runs import finish_pipeline, pipeline_run
from effir.tracking.stage_run import stage_run
from effir.tracking.store import open_store
from effir.tracking.versions import download_model

pytestmark = pytest.mark.slow

NAME = "effir-retriever"


@pytest.fixture(autouse=True)
def _of_this_server(project: Path, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)


@pytest.fixture
def name(project: Path) -> str:
    """A model of this test alone, written into its params: all tests share the server."""
    own = f"{NAME}-{project.name}-{os.getpid()}"
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace(f"name: {NAME}", f"name: {own}"))
    return own


@pytest.fixture(scope="session")
def retriever(tiny_checkpoint: Callable[[], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = build_retriever(
        tiny_checkpoint(), pooling="last", query_prompt="query: ", document_prompt="", max_tokens=32
    )
    folder: Path = tmp_path_factory.mktemp("retriever") / "retriever"
    save_retriever(model, folder)
    return folder


def effir(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def aliases(name: str) -> dict[str, int]:
    found = open_store().client.get_registered_model(name).aliases
    return {alias: int(version) for alias, version in found.items()}


def test_a_pipeline_and_its_stage_are_logged_with_their_artifacts(project: Path, server: Any) -> None:
    params = {"seed": str(project)}
    (project / "note.txt").write_text("kept")
    with stage_run("finetune", params, project / "runs/finetune.json") as run:
        for step in (5, 10):
            run.log_metrics({"loss": 1 / step}, step)
            assert open_store().client.get_run(run.id).data.metrics == {"loss": 1 / step}  # it shows at once
        open_store().client.log_artifact(run.id, str(project / "note.txt"))
    pipeline = finish_pipeline(
        "d10", params=params, stages=["finetune"], records=project / "runs", metrics={"a/ndcg_at_10": 0.5}, hashes={}
    )
    client = open_store().client
    assert json.loads((project / "runs/finetune.json").read_text())["run_id"] == run.id
    ended, finished = client.get_run(run.id), client.get_run(pipeline)
    assert ended.info.status == "FINISHED"
    assert ended.data.tags["mlflow.parentRunId"] == pipeline
    assert (finished.info.status, finished.info.run_name) == ("FINISHED", "d10")
    assert finished.data.metrics == {"a/ndcg_at_10": 0.5}
    assert finished.info.artifact_uri.startswith("mlflow-artifacts:")
    assert (server.folder / "artifacts").is_dir()
    assert not (project / "mlruns").exists()  # nothing beside the server
    assert Path(client.download_artifacts(run.id, "note.txt")).read_text() == "kept"


def test_a_registered_retriever_is_loaded_from_the_server(project: Path, name: str, retriever: Path) -> None:
    import mlflow
    from sentence_transformers import SentenceTransformer

    run = pipeline_run({"seed": str(project)})
    assert register_retriever(retriever, name=name, pipeline_run_id=run, tags={"variant": "d10"}) == 1
    assert register_retriever(retriever, name=name, pipeline_run_id=run, tags={}) == 1  # once
    for _ in "ab":  # downloaded, then there already
        downloaded = download_model(f"models:/{name}@challenger", project / "downloaded")
        assert sha256_of(downloaded / "model.safetensors") == sha256_of(retriever / "model.safetensors")
    assert aliases(name) == {"challenger": 1}
    served = mlflow.pyfunc.load_model(f"models:/{name}@challenger")
    texts = ["Smooth a noisy signal.", "query"]
    np.testing.assert_array_equal(served.predict(texts), SentenceTransformer(str(retriever)).encode(texts))


def test_the_story_of_a_champion(name: str, register: Callable[..., int]) -> None:
    register(0.5, name=name)
    assert effir("promote").output == f"{name} version 1 is now its champion\n"
    register(0.4, name=name)
    refused = effir("promote")
    assert refused.exit_code == 1
    assert "- apidocs: nDCG@10 is 0.100 below version 1's" in refused.output
    assert effir("promote", "--force", "--reason", "half the price").exit_code == 0
    assert aliases(name) == {"champion": 2, "challenger": 2, "previous": 1}
    back = effir("rollback", "--json")
    assert json.loads(back.output) == {"version": 1, "previous": 2, "reasons": [], "promoted": True, "notes": []}
    assert aliases(name) == {"champion": 1, "challenger": 2}
    register(0.6, name=name)
    assert effir("promote", "2").output.startswith(f"{name} version 2 is not promoted:\n- apidocs")  # no challenger now
    assert effir("promote", "9").output == f"Error: {name} has no version 9: `effir models` lists them\n"
    assert json.loads(effir("promote", "challenger", "--json").output)["version"] == 3
    listed = json.loads(effir("models", "--json").output)
    assert [(one["version"], one["aliases"], one["metrics"]["apidocs/ndcg_at_10"]) for one in listed] == [
        (3, ["challenger", "champion"], 0.6),
        (2, [], 0.4),
        (1, ["previous"], 0.5),
    ]
