"""What is said and what is kept if the tracking server is gone, from the start or from the middle on."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from effir.errors import EffirError
from effir.tracking.registry import register_retriever
from effir.tracking.runs import finish_pipeline, pipeline_run
from effir.tracking.stage_run import WITHOUT, stage_run
from effir.tracking.store import StoreError, open_store
from stages.program import tracking
from stages.register import MISSING

from .conftest import Server, free_port

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]
STAGE = """
import click
from stages.program import running

@click.command()
def main():
    with running("baselines@tiny") as stage:
        print("working")
        stage.log(5, {"loss": 0.5, "rate": 0.1})
        stage.run.log_metrics({"tiny/ndcg_at_10": 0.25})

main()
"""


@pytest.fixture
def gone(project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a server that is not there."""
    uri = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


def run(code: str, project: Path) -> subprocess.CompletedProcess[str]:
    corpus = project / "data/eval/tiny/corpus.jsonl"  # a stage checks first that what it reads is there
    corpus.parent.mkdir(parents=True, exist_ok=True)
    corpus.write_text('{"_id": "1", "text": "a"}\n', encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=90, check=False)


def without_requiring(project: Path) -> None:
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["tracking"]["required"] = False
    (project / "params.yaml").write_text(yaml.safe_dump(values))


@contextmanager
def answering(status: int, text: str) -> Iterator[str]:
    """A web server that answers everything in one way."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def refusal(uri: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What opening a store there is refused with, within the promised time."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    started = time.monotonic()
    with pytest.raises(EffirError) as refused:
        open_store()
    assert time.monotonic() - started < 15  # about 10, and an import
    return str(refused.value).replace(uri, "URI")


LOG_IN = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
NO_MLFLOW = "is not an MLflow server: correct MLFLOW_TRACKING_URI"
START = "start it, or correct MLFLOW_TRACKING_URI"


@pytest.mark.parametrize(
    ("status", "text", "sentence"),
    [
        (401, "You are not authenticated.", f"does not let us in (401): {LOG_IN}"),
        (
            403,
            "Invalid Host header\n",
            f"does not let us in (403): {LOG_IN}, or add its host name to the server's --allowed-hosts",
        ),
        (404, "<h1>Not found</h1>", NO_MLFLOW),
        (200, "<html>Please log in</html>", NO_MLFLOW),
        (503, "upstream is down", "answers with an error: read its log and start it again"),
    ],
)
def test_what_is_no_open_mlflow_server_is_told_apart(
    status: int, text: str, sentence: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(status, text) as uri:
        assert refusal(uri, monkeypatch) == f"the MLflow server URI {sentence}"


def test_no_server_no_host_and_no_answer_are_told_apart(
    gone: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal(gone, monkeypatch) == f"the MLflow server URI refuses connections: {START}"
    nowhere = "http://no-such-host.invalid:5000"  # a name that never resolves (RFC 6761)
    assert refusal(nowhere, monkeypatch) == f"the MLflow server URI has a host name that does not resolve: {START}"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert refusal(uri, monkeypatch) == f"the MLflow server URI does not answer: {START}"


@pytest.mark.parametrize("status", [401, 503])
def test_a_password_in_the_address_is_not_told(status: int, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(status, "") as uri:
        sentence = refusal(uri.replace("://", "://me:secret@"), monkeypatch)
    assert "me:***@127.0.0.1" in sentence
    assert "secret" not in sentence


def test_a_stage_refuses_before_its_work_in_one_sentence(project: Path, gone: str) -> None:
    done = run(STAGE, project)
    assert (done.returncode, done.stdout) == (2, "")
    sentence = f"the MLflow server {gone} refuses connections: {START}, {WITHOUT}"
    assert done.stderr.splitlines() == [f"Error: {sentence}"]
    with pytest.raises(StoreError) as refused, tracking(required=True, missing=""):
        pipeline_run({})
    assert str(refused.value) == sentence


def test_where_it_is_not_required_nothing_is_registered_and_that_is_said(
    project: Path, gone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with tracking(required=False, missing=MISSING):
        pipeline_run({})
    assert capsys.readouterr().err == (
        f"the MLflow server {gone} refuses connections: no version is registered, and neither metrics nor plots are "
        "logged, as tracking.required is false; "
        "`dvc repro --force --single-item register` does it once the store is back\n"
    )


def test_where_it_is_not_required_a_stage_finishes_and_its_points_are_logged_later(
    project: Path, gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_requiring(project)
    done = run(STAGE, project)
    assert (done.returncode, done.stdout) == (0, "working\n")
    reason = f"the MLflow server {gone} refuses connections"
    assert done.stderr.splitlines() == [
        f"{reason}: baselines@tiny runs without it, because tracking.required is false",
        f"baselines@tiny is not logged, because {reason}: 3 metric points are kept in runs/baselines@tiny.json, "
        "and the stage register logs them later",
    ]
    record = json.loads((project / "runs/baselines@tiny.json").read_text())
    assert (record["stage"], record["run_id"], record["pipeline_run_id"]) == ("baselines@tiny", None, None)
    points = [(name, value, step) for name, value, _, step in record["unlogged"]["points"]]
    assert points == [("loss", 0.5, 5), ("rate", 0.1, 5), ("tiny/ndcg_at_10", 0.25, 0)]

    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # a store is there again
    for _ in range(2):  # the second time adds nothing
        pipeline = finish_pipeline(
            "d10", params={"a": 1}, stages=["baselines@tiny"], records=project / "runs", metrics={}
        )
        store = open_store()
        (nested,) = store.client.search_runs([store.experiment_id], f"tags.`mlflow.parentRunId` = '{pipeline}'")
    assert nested.data.metrics == {"loss": 0.5, "rate": 0.1, "tiny/ndcg_at_10": 0.25}
    assert (nested.info.run_name, nested.info.status) == ("baselines@tiny", "FINISHED")
    assert "effir.logged_late" in nested.data.tags
    assert len(store.client.get_metric_history(nested.info.run_id, "loss")) == 1


@pytest.fixture
def own_server(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a server of this test alone whose clients write artifacts themselves, to a folder that all of them see."""
    folder: Path = tmp_path_factory.mktemp("own")
    flags = ("--no-serve-artifacts", "--default-artifact-root", (folder / "artifacts").as_uri())
    server = Server(folder, f"sqlite:///{folder}/mlflow.db", free_port(), flags)
    server.start()
    yield server
    server.kill()


def test_a_server_that_dies_ends_no_work_and_the_weights_lie_on_its_disk_once(
    project: Path, own_server: Server, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Callable[[], Path]
) -> None:
    from effir.model.retriever import build_retriever, save_retriever

    monkeypatch.setenv("MLFLOW_TRACKING_URI", own_server.uri)
    params, said, record = {"seed": 1}, [], project / "runs/finetune.json"
    model = build_retriever(tiny_checkpoint(), pooling="last", query_prompt="", document_prompt="", max_tokens=32)
    save_retriever(model, project / "retriever")
    register_retriever(project / "retriever", name="linked", pipeline_run_id=pipeline_run(params), tags={})
    (kept,) = own_server.folder.glob("artifacts/**/model.safetensors")
    assert kept.samefile(project / "retriever/model.safetensors")  # one copy, through a server too

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # how long the end waits for a restarted server
    with stage_run("finetune", params, record, say=said.append) as stage:
        stage.log_metrics({"loss": 3.0}, 5)
        own_server.kill()
        started = time.monotonic()
        for step in range(10, 510, 5):
            stage.log_metrics({"loss": 30 / step}, step)
        assert time.monotonic() - started < 15  # a hundred points, and one request
    reason = f"the MLflow server {own_server.uri} refuses connections"
    assert said == [
        f"finetune is not logged, because {reason}: 100 metric points are kept in {record}, "
        "and the stage register logs them later"
    ]
    with pytest.raises(EffirError, match="refuses connections: start it"):  # the next one refuses, in this process too
        pipeline_run(params)

    own_server.start()
    pipeline = finish_pipeline("d10", params=params, stages=["finetune"], records=record.parent, metrics={})
    client = open_store().client
    ended = client.get_run(stage.id)
    assert (ended.info.status, ended.data.tags["mlflow.parentRunId"]) == ("FINISHED", pipeline)
    steps = [point.step for point in client.get_metric_history(stage.id, "loss")]
    assert steps == list(range(5, 510, 5))  # each once, those before and those after
