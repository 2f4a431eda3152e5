"""The real pipeline in a clone of its own: real DVC, git and MLflow, with a tiny model and two tiny collections."""

import importlib
import inspect
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from effir.cli.profiles import use_profiles
from effir.data.beir import Document, write_collection

HERE = Path(__file__).parents[2]
# What a pipeline leaves behind: a fresh clone has none of it.
MADE = ("reports", "metrics", "baselines", "dvc.lock")
MODULES = """argparse asyncio collections decimal email.message fractions functools heapq inspect io itertools json
logging os pathlib random re shutil socket statistics string subprocess tarfile tempfile textwrap threading typing
unittest zipfile""".split()
EOS = "<|end|>"
# What the profile `smoke` must say otherwise for so small a model and collection. 30 steps leave time to kill the
# training between two of its checkpoints.
TINY: Mapping[str, Mapping[str, Any]] = {
    "data": {"train": "tiny", "dev": "tiny", "eval": ["tiny"]},
    "training": {"checkpoint_every": 2, "examples": 64},
    "prune": {"depth": 2, "width": 0.75, "multiple_of": 8, "method": "slimming"},
    "finetune": {"steps": 30},
}


@dataclass(frozen=True)
class Project:
    """A clone of this project; every command runs in its root."""

    root: Path
    env: Mapping[str, str]
    python: str = sys.executable

    def warmed(self, python: Path) -> "Project":
        """Return the clone with stages, DVC and effir's commands run by ``python`` of warm.py."""
        path = os.pathsep.join([str(python.parent), self.env["PATH"]])
        return replace(self, env={**self.env, "PATH": path}, python=str(python))

    def effir(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of effir to its end, both outputs in ``stdout``."""
        return self.run(self.python, "-m", "effir.cli", *arguments)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, both outputs in ``stdout``."""
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=600,
            check=False,
        )

    def succeed(self, *command: str) -> str:
        """Run a command that must end with 0; its output."""
        done = self.run(*command)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def dvc(self, *arguments: str) -> str:
        """Run DVC, which must end with 0; its output."""
        return self.succeed(self.python, "-m", "dvc", *arguments)

    def git(self, *arguments: str) -> str:
        """Run git, which must end with 0; its output."""
        return self.succeed("git", *arguments)

    @contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run DVC beside the block, and kill it at the end; its outputs go to ``dvc.out`` beside the clone."""
        command = [sys.executable, "-m", "dvc", *arguments]
        with (self.root.parent / "dvc.out").open("wb") as output:
            dvc = subprocess.Popen(command, cwd=self.root, env=self.env, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield dvc
        finally:
            dvc.kill()
            dvc.wait()

    def json(self, path: str) -> Any:
        """Read a JSON file of the clone."""
        return json.loads((self.root / path).read_text(encoding="utf-8"))

    def restore(self) -> None:
        """Go back to the last commit: params and small outputs by git, big ones by DVC."""
        self.git("restore", ".")
        self.dvc("checkout", "--quiet")


@dataclass(frozen=True)
class Repro:
    """The project after its first ``dvc repro``, committed."""

    project: Project
    output: str


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory, warm: Path) -> Project:
    """A clone in which no stage has run."""
    return fresh_clone(tmp_path_factory.mktemp("fresh")).warmed(warm)


@pytest.fixture(scope="session")
def repro(tmp_path_factory: pytest.TempPathFactory, worker_id: str, warm: Path) -> Iterator[Repro]:
    """The project after ``dvc repro``, run by the first of pytest's processes to ask; each has a copy of its own."""
    session = tmp_path_factory.getbasetemp()
    if worker_id != "master":  # with more processes than one, each has a folder in the session's
        session = session.parent
    said = session / "repro.out"
    with FileLock(session / "repro.lock"):
        if not said.exists():
            shutil.rmtree(session / "repro", ignore_errors=True)  # what a failure left
            first = fresh_clone(session / "repro").warmed(warm)
            output = first.dvc("repro")
            _commit(first, "after dvc repro")
            said.write_text(output, encoding="utf-8")
    home = tmp_path_factory.mktemp("pipeline")
    shutil.copytree(session / "repro/clone", home / "clone", symlinks=True)
    _move_store(home / "clone/mlflow.db", session / "repro/clone", home / "clone")
    project = Project(home / "clone", _environment(home))
    yield Repro(project, said.read_text(encoding="utf-8"))
    project.run(sys.executable, "-m", "dvc", "queue", "stop", "--kill")


@pytest.fixture
def project(repro: Repro, warm: Path) -> Iterator[Project]:
    """The project as ``repro`` left it; what a test changes is undone."""
    yield repro.project.warmed(warm)
    repro.project.restore()


def fresh_clone(home: Path) -> Project:
    """Clone this project into ``home``, beside a tiny model and two collections that its params name."""
    project = Project(home / "clone", _environment(home))
    copy_tree(project.root)
    write_model(home / "llama")
    write_encoder(home / "llama", home / "small")
    texts = _docstrings()
    write_texts(home / "tiny", texts[:120], train=40)
    write_texts(home / "other", texts[120:240], train=0)
    _write_params(project.root, home)
    project.git("init", "--quiet", "--initial-branch=main")
    _commit(project, "a fresh clone")
    return project


def _move_store(database: Path, before: Path, after: Path) -> None:
    """Let MLflow find a clone's artifacts where they are now: it keeps whole paths."""
    with closing(sqlite3.connect(database)) as store:
        kept = "\n".join(store.iterdump())
    assert str(before) in kept
    script = kept.replace(str(before), str(after))
    database.unlink()
    with closing(sqlite3.connect(database)) as store:
        store.executescript(script)


def _environment(home: Path) -> dict[str, str]:
    foreign = ("DVC", "MLFLOW", "GIT_", "HF_", "PYTHONPATH")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    return kept | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(home / "dvc-site"),
        "DVC_GLOBAL_CONFIG_DIR": str(home / "dvc-config"),
        "DVC_SYSTEM_CONFIG_DIR": str(home / "dvc-system"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",  # threads wait for each other longer than so small a model computes
        "HF_HOME": str(home / "hf"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_{what}": f"{who}@test".lower() for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }


def copy_tree(into: Path) -> None:
    """Copy what git tracks or would track, as it is in the working tree."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        names = subprocess.run(listing, cwd=HERE, check=True, capture_output=True, text=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the pipeline tests clone this project's git working tree, and there is none")
    for name in filter(None, names):
        if Path(name).parts[0] not in MADE and (HERE / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(HERE / name, into / name)


def _commit(project: Project, message: str) -> None:
    project.git("add", "--all")
    project.git("commit", "--quiet", "--message", message)


def _write_params(root: Path, home: Path) -> None:
    path = root / "params.yaml"
    use_profiles(root / "profiles", ["smoke"], path)
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, values in TINY.items():
        params[section] |= values
    params["model"]["base"] = str(home / "llama")
    params["evaluate"]["baselines"] = {"small": str(home / "small")}
    params["data"]["collections"] = {name: str(home / name) for name in ("tiny", "other")}
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def write_model(into: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaModel

    tokenizer = _train_tokenizer([f"{d.title} {d.text}" for d in _docstrings()])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaModel(config).save_pretrained(into)
    tokenizer.save_pretrained(into)


def write_encoder(base: Path, into: Path) -> None:
    """Save the tiny model as a sentence-transformers folder, to stand beside the retriever."""
    from effir.model.retriever import build_retriever, save_retriever

    save_retriever(build_retriever(base, pooling="mean", query_prompt="", document_prompt="", max_tokens=32), into)


def _train_tokenizer(texts: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=EOS, model_max_length=128)


def _docstrings() -> list[Document]:
    """240 public objects of the standard library with a docstring of more than one paragraph or line."""
    found: dict[str, Document] = {}
    for module in MODULES:
        for name, value in sorted(vars(importlib.import_module(module)).items()):
            text = inspect.getdoc(value) if callable(value) and not name.startswith("_") else None
            if text and len(text.splitlines()) > 1 and text not in found:
                found[text] = Document(f"{module}.{name}", f"{module}.{name}", text)
    return list(islice(found.values(), 240))


def write_texts(folder: Path, documents: Sequence[Document], train: int) -> None:
    """A collection: the first line of a docstring asks for the rest; ``train`` queries, and 20 to test."""
    asked = {f"q{i}": document for i, document in enumerate(documents[: train + 20])}
    queries = {query: document.text.splitlines()[0] for query, document in asked.items()}
    rest = [Document(d.id, d.title, d.text.partition("\n")[2].strip()) for d in documents]
    judged = [(query, {document.id: 1}) for query, document in asked.items()]
    splits = {"train": dict(judged[:train]), "test": dict(judged[train:])}
    write_collection(folder, rest, queries, {split: pairs for split, pairs in splits.items() if pairs})


def ran(output: str) -> list[str]:
    """Names of the stages that DVC ran, in its order."""
    return re.findall(r"Running stage '([^']+)'", output)
