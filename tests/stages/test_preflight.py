"""What a later stage would refuse is refused before the first one works."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from effir.data.beir import Document, write_collection
from effir.errors import EffirError, MissingError
from effir.files import write_jsonl
from effir.params import Params, check_params
from stages.preflight import check_files, check_settings

MANUAL = Path(__file__).parents[2] / "params.yaml"


def params(**changes: Any) -> Params:
    """The default settings with some keys changed, written as ``prune__depth=3``."""
    values = yaml.safe_load(MANUAL.read_text(encoding="utf-8"))
    for key, value in changes.items():
        section, name = key.split("__")
        values[section][name] = value
    return check_params(values)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"index__factory": "HNWS32"}, "faiss does not know the index factory 'HNWS32'"),
        ({"data__eval": ["apidocs", "scifacts"]}, "there is no collection 'scifacts': the public ones are"),
        ({"data__dev": "mine"}, "there is no collection 'mine'"),
        ({"data__train": {"apidocs": 1, "apidoc": 1}}, "there is no collection 'apidoc'"),
        ({"training__teacher": "hub:a b"}, "hub:a b is not a hub source"),
        ({"evaluate__baselines": {"one": "hub:a b"}}, r"^evaluate\.baselines\.one: hub:a b is not a hub source"),
        (
            {"evaluate__baselines": {"one": "away"}},
            r"away is missing: .*\. Or do without it: `baselines: \{\}` in params",
        ),
        ({"data__collections": {"mine": "s3://x"}, "data__eval": ["mine"]}, "'s3://x' is not a source"),
    ],
)
def test_a_setting_that_a_later_stage_would_refuse_stops_the_first(changes: dict[str, Any], says: str) -> None:
    for _ in range(2):  # a refusal is not kept
        with pytest.raises(EffirError, match=says):
            check_settings(params(**changes))


def test_settings_are_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    check_settings(params())
    monkeypatch.setattr("effir.index.factory.check_factory", pytest.fail)
    check_settings(params())
    with pytest.raises(pytest.fail.Exception):
        check_settings(params(index__factory="HNSW32"))


def test_a_backend_that_is_not_installed_stops_the_first_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.preflight.find_spec", lambda name: None)
    with pytest.raises(EffirError, match=r"^retriever\.backend is openvino, which is not installed: pip install"):
        check_settings(params(retriever__backend="openvino"))


@pytest.mark.parametrize(
    ("factory", "documents", "says"),
    [
        ("IVF64,Flat", 63, "needs 64 documents to train on, and mine has 63: use fewer clusters, or Flat"),
        ("IVF16,PQ8", 200, "needs 256 documents to train on, and mine has 200"),
        ("IVF64,Flat", 64, ""),
        ("Flat", 1, ""),
    ],
)
def test_an_index_that_the_corpus_cannot_train_is_refused_when_the_corpus_is_there(
    project: Path, factory: str, documents: int, says: str
) -> None:
    write_jsonl(project / "data/eval/mine/corpus.jsonl", ({"_id": str(i), "text": "x"} for i in range(documents)))
    if says:
        with pytest.raises(EffirError, match=says):
            check_files("baselines@mine", params(index__factory=factory))
    else:
        check_files("baselines@mine", params(index__factory=factory))


def test_batches_that_the_training_set_cannot_fill_are_refused_before_any_training(project: Path) -> None:
    documents = [Document(f"d{i}", "", f"answer {i}") for i in range(40)]
    queries = {f"q{i}": f"query {i}" for i in range(200)}
    onto_forty = {f"q{i}": {f"d{i % 40}": 1} for i in range(200)}
    write_collection(project / "data/train", documents, queries, {"train": onto_forty})
    check_files("teacher_scores", params())
    says = r"^finetune\.batch_size is 64, but data\.train has 40 different answers: lower it, or add answers$"
    with pytest.raises(EffirError, match=says):
        check_files("teacher_scores", params(finetune__batch_size=64, training__examples=0))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prune__depth": 4}, "prune.depth is 4, but 3 sublayers are ranked: choose 0 to 3$"),
        ({"prune__depth": 3}, "prune.depth is 3, which leaves neither attention nor MLP"),
        (
            {"prune__depth": 3, "analyze__criterion": "greedy"},
            "prune.depth is 3, but 2 sublayers are ranked: choose 0 to 2, or raise analyze.drop_share",
        ),
        ({"index__factory": "PQ7"}, "the index factory 'PQ7' cannot hold vectors of dimension"),
        ({"analyze__texts": 21}, "has 20 texts, but 21 are wanted"),
        ({}, ""),
    ],
)
def test_what_does_not_fit_the_base_model_is_refused_before_it_is_trained(
    project: Path, tiny_checkpoint: Callable[[bool], Path], changes: dict[str, Any], says: str
) -> None:
    documents = [Document(f"d{i}", "", f"answer {i}") for i in range(40)]
    asked = {f"q{i}": f"query {i}" for i in range(40)}
    write_collection(project / "data/train", documents, asked, {"train": {f"q{i}": {f"d{i}": 1} for i in range(40)}})
    (project / "models").mkdir()
    (project / "models/base").symlink_to(tiny_checkpoint(False))  # of three layers
    write_jsonl(project / "data/calibration.jsonl", ({"text": str(i)} for i in range(20)))
    usable = params(**{"prune__depth": 1, "analyze__texts": 20, **changes})
    if says:
        with pytest.raises(EffirError, match=says):
            check_files("finetune_full", usable)
    else:
        check_files("finetune_full", usable)


def test_a_file_that_is_missing_is_named() -> None:
    with pytest.raises(MissingError, match="data/train is missing"):
        check_files("finetune_full", params())
