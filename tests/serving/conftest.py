"""A served index: a real process, a real retriever, made small."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from effir.compress.shape import shape_of
from effir.compress.surgery import cut_checkpoint
from effir.data.beir import Document
from effir.growing import create_index
from effir.models import model_of, open_model
from effir.retriever import build_retriever, save_retriever
from tests.compress.conftest import tiny_model, tiny_tokenizer

DOCUMENTS = [Document(f"d{i}", f"w{i}", f"w{i} w{i + 1} w{i + 2}") for i in range(4, 50)]


@dataclass(frozen=True)
class Served:
    """A service that runs: where, and its process."""

    address: str
    process: subprocess.Popen[str]


def tiny_retriever(folder: Path, query_prompt: str) -> Path:
    """Write a cut random model as a retriever, as finetune leaves one."""
    tiny_model("llama", attention_bias=False, mlp_bias=False).save_pretrained(folder / "whole")
    tiny_tokenizer().save_pretrained(folder / "whole")
    cut_checkpoint(folder / "whole", folder / "cut", shape_of(folder / "whole").without("mlp", [1]))
    settings: dict[str, Any] = {"pooling": "last", "document_prompt": "", "max_tokens": 16}
    save_retriever(build_retriever(folder / "cut", query_prompt=query_prompt, **settings), folder / "retriever")
    return folder / "retriever"


@pytest.fixture(scope="session")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_retriever(tmp_path_factory.mktemp("model"), query_prompt="w60 ")


def indexed(retriever: Path, folder: Path) -> Path:
    model = replace(model_of(str(retriever), precision="float32"), name="tiny")
    create_index(folder, DOCUMENTS, open_model(model).documents, model, "Flat")
    return folder


@contextmanager
def serving(index: Path) -> Iterator[Served]:
    """Serve an index at a free port by the command that a person types; the service is killed in the end."""
    command = [
        sys.executable,
        "-m",
        "effir.cli",
        "serve",
        str(index),
        "--port",
        "0",
        "--json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield Served(json.loads(process.stdout.readline())["address"], process)
        finally:
            process.kill()


@pytest.fixture(scope="session")
def served(retriever: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(indexed(retriever, tmp_path_factory.mktemp("served") / "index")) as found:
        yield found
