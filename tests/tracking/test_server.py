"""The same story as on sqlite, over HTTP: each test runs against every server that `server` starts."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from effir.cli import main
from effir.files import sha256_of
from effir.model.retriever import build_retriever, save_retriever
from effir.tracking import open_store
from effir.tracking.download import download_model
from effir.tracking.registry import register_retriever
from effir.tracking.runs import finish_pipeline, pipeline_run
from effir.tracking.stage_run import stage_run

CHECKOUT = Path(__file__).parents[2]
NAME = "effir-retriever"
ROUNDS = 3
# One of two people, each with a clone of their own: promote a version of each round at the moment the other one does.
PROMOTER = """
import json, os, sys, time
from pathlib import Path
from click.testing import CliRunner
from effir.cli import main
from effir.tracking import open_store
meeting, versions = Path(sys.argv[1]), sys.argv[2:]
open_store()
for turn, version in enumerate(versions):
    (meeting / f"{turn}.{os.getpid()}").touch()
    while len(list(meeting.glob(f"{turn}.*"))) < 2:
        time.sleep(0.001)
    done = CliRunner().invoke(main, ["promote", version, "--json"])
    print(json.dumps([done.exit_code, json.loads(done.output)]), flush=True)
"""


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
        run.log_artifact(project / "note.txt")
        run.log_params({"finetune": {"steps": 10}})
    pipeline = finish_pipeline(
        "d10", params=params, stages=["finetune"], records=project / "runs", metrics={"a/ndcg_at_10": 0.5}, hashes={}
    )
    client = open_store().client
    assert json.loads((project / "runs/finetune.json").read_text())["run_id"] == run.id
    ended, whole = client.get_run(run.id), client.get_run(pipeline)
    assert (ended.info.status, ended.data.params) == ("FINISHED", {"finetune.steps": "10"})
    assert ended.data.tags["mlflow.parentRunId"] == pipeline
    assert (whole.info.status, whole.info.run_name, whole.data.metrics) == ("FINISHED", "d10", {"a/ndcg_at_10": 0.5})
    assert whole.info.artifact_uri.startswith("mlflow-artifacts:")
    assert (server.folder / "artifacts").is_dir()
    assert not (project / "mlruns").exists()  # nothing beside the server
    assert Path(client.download_artifacts(run.id, "note.txt")).read_text() == "kept"


def test_a_registered_retriever_is_loaded_from_the_server(project: Path, name: str, retriever: Path) -> None:
    import mlflow
    from sentence_transformers import SentenceTransformer

    run = pipeline_run({"seed": str(project)})
    assert register_retriever(retriever, name=name, pipeline_run_id=run, tags={"variant": "d10"}) == 1
    assert register_retriever(retriever, name=name, pipeline_run_id=run, tags={}) == 1  # once
    for _ in "ab":  # fetched, then there already
        fetched = download_model(f"models:/{name}@challenger", project / "fetched")
        assert sha256_of(fetched / "model.safetensors") == sha256_of(retriever / "model.safetensors")
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
    assert json.loads(back.output) == {"version": 1, "previous": 2, "reasons": [], "promoted": True}
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


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(
    project: Path, name: str, register: Callable[..., int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    for _ in range(1 + 2 * ROUNDS):
        register(0.5, name=name)  # all as good as each other: one after the other, each would pass
    assert effir("promote", "1").exit_code == 0
    meeting, started = tmp_path_factory.mktemp("meeting"), []
    for person in (0, 1):
        clone = tmp_path_factory.mktemp("clone")
        (clone / "params.yaml").write_bytes((project / "params.yaml").read_bytes())
        env = {**os.environ, "DVC_ROOT": str(clone), "PYTHONPATH": str(CHECKOUT)}
        versions = [str(2 + 2 * turn + person) for turn in range(ROUNDS)]
        command = [sys.executable, "-c", PROMOTER, str(meeting), *versions]
        started.append(subprocess.Popen(command, cwd=clone, env=env, text=True, stdout=subprocess.PIPE))
    said = [[json.loads(line) for line in process.communicate(timeout=240)[0].splitlines()] for process in started]
    champion = 1
    for turn, both in enumerate(zip(*said, strict=True)):
        (won, winner), (lost, loser) = sorted(both, key=lambda one: -one[1]["promoted"])
        assert (won, lost) == (0, 1)
        assert {winner["version"], loser["version"]} == {2 + 2 * turn, 3 + 2 * turn}
        assert winner == {"version": winner["version"], "previous": champion, "reasons": [], "promoted": True}
        assert loser["reasons"] == [
            f"version {winner['version']} became champion meanwhile: look at `effir models`, then try again"
        ]
        assert loser["promoted"] is False
        previous, champion = champion, winner["version"]
    assert len(said[0]) == ROUNDS
    assert aliases(name) == {"champion": champion, "previous": previous, "challenger": 1 + 2 * ROUNDS}
    assert not open_store().client.search_registered_models(f"name = '{name}.promotion-in-progress'")
