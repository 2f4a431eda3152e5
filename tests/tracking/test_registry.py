import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from effir.errors import EffirError
from effir.tracking import registry
from effir.tracking.registry import VersionFiles, register_retriever
from effir.tracking.runs import pipeline_run
from effir.tracking.store import open_store
from effir.tracking.versions import download_model

pytestmark = pytest.mark.slow

NAME = "effir-retriever"
TEXTS = ["Smooth a noisy signal.", "query"]
HIDDEN = 16
KINDS = ("Config", "Model")
MODELING = """
from transformers import LlamaConfig, LlamaModel

class TinyConfig(LlamaConfig):
    model_type = "tiny"

class TinyModel(LlamaModel):
    config_class = TinyConfig

    def forward(self, *arguments, **named):
        outputs = super().forward(*arguments, **named)
        outputs.last_hidden_state = outputs.last_hidden_state.flip(-1)  # what a plain Llama would not do
        return outputs
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder: Path = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv("DVC_ROOT", str(folder))
        yield folder


@pytest.fixture(scope="module")
def retriever(root: Path) -> Path:
    """A random Llama of two layers over bytes whose code is in its folder, pooled, normalised, with a query prompt."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    alphabet = {symbol: i for i, symbol in enumerate(["<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>").save_pretrained(root / "base")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(alphabet),
        hidden_size=HIDDEN,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    LlamaModel(config).save_pretrained(root / "base")
    (root / "base/modeling_tiny.py").write_text(MODELING)
    card = json.loads((root / "base/config.json").read_text())
    card |= {"model_type": "tiny", "auto_map": {f"Auto{kind}": f"modeling_tiny.Tiny{kind}" for kind in KINDS}}
    (root / "base/config.json").write_text(json.dumps(card))
    trust = {"trust_remote_code": True}
    base = Transformer(str(root / "base"), model_kwargs=trust, config_kwargs=trust)
    modules = [base, Pooling(HIDDEN, pooling_mode="lasttoken"), Normalize()]
    SentenceTransformer(modules=modules, prompts={"query": "query: "}, device="cpu").save(str(root / "retriever"))
    return root / "retriever"


@pytest.fixture(scope="module")
def run(root: Path) -> str:
    return pipeline_run({"seed": 0})


@pytest.fixture(scope="module")
def version(retriever: Path, run: str) -> int:
    return register_retriever(retriever, name=NAME, pipeline_run_id=run, tags={"git": "abc"})


def logged_model(version: Any) -> Any:
    return open_store().client.get_logged_model(version.source.removeprefix("models:/"))


def test_the_alias_serves_the_retrievers_own_vectors(version: int, retriever: Path) -> None:
    import mlflow
    from sentence_transformers import SentenceTransformer

    served = mlflow.pyfunc.load_model(f"models:/{NAME}@challenger")
    ours = SentenceTransformer(str(retriever), trust_remote_code=True)
    documents = served.predict(TEXTS)
    queries = served.predict(TEXTS, params={"prompt_name": "query"})
    np.testing.assert_array_equal(documents, ours.encode(TEXTS))
    np.testing.assert_array_equal(queries, ours.encode(TEXTS, prompt_name="query"))
    assert documents.shape == (2, HIDDEN)
    assert documents.dtype == np.float32
    assert np.abs(documents - queries).max() > 0.01  # the prompt is not lost on the way


@pytest.mark.parametrize("which", ["@challenger", "/1"])
def test_a_registered_version_is_found_as_a_folder(version: int, retriever: Path, tmp_path: Path, which: str) -> None:
    found = download_model(f"models:/{NAME}{which}", tmp_path)
    assert (found / "model.safetensors").samefile(retriever / "model.safetensors")  # nothing is copied
    assert not list(tmp_path.iterdir())


def test_a_version_that_is_not_there_is_one_sentence(version: int, tmp_path: Path) -> None:
    with pytest.raises(EffirError, match="has no version with the alias 'nobody'"):
        download_model(f"models:/{NAME}@nobody", tmp_path)
    with pytest.raises(EffirError, match="no model elsewhere is registered"):
        download_model("models:/elsewhere/1", tmp_path)


def test_the_version_carries_signature_example_tags_and_its_run(version: int, run: str, retriever: Path) -> None:
    from mlflow.models import Model

    found = open_store().client.get_model_version_by_alias(NAME, "challenger")
    assert (int(found.version), found.run_id, found.tags["git"], len(found.tags["effir.sha256"])) == (1, run, "abc", 64)
    package = Path(logged_model(found).artifact_location.removeprefix("file://"))
    card = Model.load(str(package))
    assert card.signature.inputs.input_types()[0].name == "string"
    assert card.signature.outputs.inputs[0].shape == (-1, HIDDEN)
    assert [param.name for param in card.signature.params] == ["prompt_name"]
    assert card.load_input_example(str(package)) == ["Smooth a noisy signal."]
    assert card.model_size_bytes == sum(path.stat().st_size for path in retriever.rglob("*") if path.is_file())
    assert not [path for path in package.rglob("*") if path.suffix in {".pkl", ".bin", ".pickle"}]
    requirements = (package / "requirements.txt").read_text().split()
    assert {line.split("==")[0] for line in requirements} == {
        "mlflow",
        "sentence-transformers",
        "transformers",
        "torch",
    }


def test_the_same_content_is_registered_once_and_the_alias_moves(version: int, run: str, retriever: Path) -> None:
    client = open_store().client
    assert register_retriever(retriever, name=NAME, pipeline_run_id=run, tags={}, alias="steady") == version
    assert int(client.get_model_version_by_alias(NAME, "steady").version) == version
    other = register_retriever(retriever, name=NAME, pipeline_run_id=pipeline_run({"seed": 1}), tags={}, alias="steady")
    assert other == version + 1
    assert int(client.get_model_version_by_alias(NAME, "steady").version) == other
    assert int(client.get_model_version_by_alias(NAME, "challenger").version) == version


def test_the_weights_lie_on_disk_once_and_outlive_the_retriever_that_they_were(
    version: int, retriever: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = logged_model(open_store().client.get_model_version(NAME, str(version))).artifact_location
    kept = Path(package.removeprefix("file://"), "data/retriever")
    assert (kept / "model.safetensors").samefile(retriever / "model.safetensors")
    moved = tmp_path / "new"
    moved.write_bytes(b"other weights")
    source = tmp_path / "model.safetensors"
    os.link(kept / "model.safetensors", source)
    moved.replace(source)  # as DVC and effir replace a file
    assert (kept / "model.safetensors").stat().st_size > 1000

    def refused(*paths: Any) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refused)
    registry._link(str(moved.with_name("model.safetensors")), str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == b"other weights"


def test_an_upload_that_was_cut_short_is_completed(root: Path, retriever: Path) -> None:
    from effir.files import sha256_of

    run = pipeline_run({"seed": 2})
    store = open_store()
    begun = registry._begin(store, run, sha256_of(retriever), VersionFiles())  # where a kill during the copy leaves it
    number = register_retriever(retriever, name="cut-short", pipeline_run_id=run, tags={})
    found = store.client.get_model_version("cut-short", str(number))
    assert logged_model(found).model_id == begun.model_id
    assert logged_model(found).status == "READY"


def test_a_version_carries_its_papers_and_does_not_change_the_retriever(root: Path, retriever: Path) -> None:
    own_card = (retriever / "README.md").read_text()
    papers = VersionFiles(
        card="# A card",
        description="| table |",
        params={"prune": {"width": 0.6}},
        metrics={"apidocs/ndcg_at_10": 0.5},
        files={"apidocs-queries.json": {"q1": {"ndcg_at_10": 0.5}}},
    )
    run = pipeline_run({"seed": 3})
    number = register_retriever(
        retriever, name="papers", pipeline_run_id=run, tags={"git.dirty": "true"}, papers=papers
    )
    store = open_store()
    version = store.client.get_model_version("papers", str(number))
    model = logged_model(version)
    artifacts = Path(model.artifact_location.removeprefix("file://"))
    assert (version.description, version.tags["git.dirty"]) == ("| table |", "true")
    assert "`challenger` is the newest version" in store.client.get_registered_model("papers").description
    assert model.params == {"prune.width": "0.6"}
    assert [(metric.key, metric.value) for metric in model.metrics] == [("apidocs/ndcg_at_10", 0.5)]
    assert json.loads((artifacts / "effir/apidocs-queries.json").read_text()) == {"q1": {"ndcg_at_10": 0.5}}
    assert (artifacts / "data/retriever/README.md").read_text() == "# A card"
    assert (retriever / "README.md").read_text() == own_card


def test_it_is_served_where_effir_is_not(version: int, root: Path, retriever: Path) -> None:
    from sentence_transformers import SentenceTransformer

    code = f"""
import sys
sys.modules["effir"] = None  # importing it now raises ImportError
import mlflow, numpy
vectors = mlflow.pyfunc.load_model("models:/{NAME}@challenger").predict(["Smooth a noisy signal."])
numpy.save("vectors.npy", vectors, allow_pickle=False)
"""
    subprocess.run([sys.executable, "-c", code], cwd=root, env=dict(os.environ), check=True, timeout=60)
    expected = SentenceTransformer(str(retriever), trust_remote_code=True).encode(["Smooth a noisy signal."])
    np.testing.assert_array_equal(np.load(root / "vectors.npy", allow_pickle=False), expected)


def test_mlflow_models_serve_answers(version: int, root: Path, retriever: Path) -> None:
    from sentence_transformers import SentenceTransformer

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{NAME}@challenger"]
    command += ["--env-manager", "local", "--port", str(port)]
    with subprocess.Popen(command, cwd=root, env=dict(os.environ), start_new_session=True) as process:
        try:
            wait_for(lambda: requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok, process)
            asked = {"inputs": TEXTS, "params": {"prompt_name": "query"}}
            answer = requests.post(f"http://127.0.0.1:{port}/invocations", json=asked, timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert answer.status_code == 200, answer.text
    expected = SentenceTransformer(str(retriever), trust_remote_code=True).encode(TEXTS, prompt_name="query")
    np.testing.assert_allclose(answer.json()["predictions"], expected, atol=1e-6)


def wait_for(is_there: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers, for two minutes at most, and no longer than its process lives."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        with suppress(requests.RequestException):
            if is_there():
                return
        time.sleep(0.5)
    raise AssertionError(f"no answer; the server ended with {process.poll()}")


def test_a_missing_folder_is_named(root: Path, run: str) -> None:
    with pytest.raises(EffirError, match=r"nowhere/modules\.json is missing"):
        register_retriever(root / "nowhere", name=NAME, pipeline_run_id=run, tags={})
