"""Model versions and aliases in the MLflow registry."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from effir.files import require, sha256_of, write_json, writing
from effir.params import flatten
from effir.tracking import Store, open_store, reaching
from effir.tracking.runs import log_metrics

CONTENT = "effir.sha256"
PAPERS = "effir"
CHAMPION, PREVIOUS = "champion", "previous"  # aliases of the version that serves, and of the one that did
DATA = "retriever"
SERVING = ("sentence-transformers", "transformers", "torch")


@dataclass(frozen=True)
class VersionFiles:
    """What a version carries beside its weights, so that it can be judged without the run that made it.

    ``card`` replaces the README.md of the registered folder, ``description`` heads the version (both Markdown);
    ``files``, as JSON by name, lie in the folder ``effir`` of the version's artifacts.
    """

    card: str = ""
    description: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)


@reaching()
def register_retriever(
    folder: Path,
    *,
    name: str,
    pipeline_run_id: str,
    tags: Mapping[str, str],
    alias: str = "challenger",
    papers: VersionFiles = VersionFiles(),
) -> int:
    """Register the sentence-transformers folder as the next version of model ``name``, move ``alias`` to it, return it.

    A run's folder of the same content is registered once; ``tags`` go on a new version only. The served model takes
    texts and gives (texts, dimension) float32 vectors, as documents, or as queries with
    ``params={"prompt_name": "query"}``. EffirError where the folder is missing.
    """
    require(folder / "modules.json")
    store, content = open_store(), sha256_of(folder)
    version = _registered(store, name, pipeline_run_id, content)
    if version is None:
        model_id = _upload(store, folder, pipeline_run_id, content, papers)
        version = _create_version(store, name, model_id, pipeline_run_id, {**tags, CONTENT: content}, papers)
    store.client.set_registered_model_alias(name, alias, str(version))
    return version


def _registered(store: Store, name: str, run: str, content: str) -> int | None:
    found = store.client.search_model_versions(f"name = '{name}' and run_id = '{run}'")
    return next((int(version.version) for version in found if version.tags.get(CONTENT) == content), None)


def _create_version(
    store: Store, name: str, model_id: str, run: str, tags: Mapping[str, str], papers: VersionFiles
) -> int:
    from mlflow.exceptions import MlflowException

    try:
        store.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"models:/{model_id}"
    made = store.client.create_model_version(
        name, source, run, dict(tags), description=papers.description or None, model_id=model_id
    )
    return int(made.version)


def _upload(store: Store, folder: Path, run: str, content: str, papers: VersionFiles) -> str:
    """Put the folder into the store as a logged model of ``run``; what a killed process began is completed."""
    condition = f"source_run_id = '{run}' and tags.`{CONTENT}` = '{content}'"
    begun = store.client.search_logged_models([store.experiment_id], condition)
    model = begun[0] if begun else _begin(store, run, content, papers)
    if model.status != "READY":
        with tempfile.TemporaryDirectory() as draft:
            package = Path(draft, "package")
            _write_package(package, model, folder)
            store.client.log_model_artifacts(model.model_id, str(package))
        _put(store, model, folder)
        _put_papers(store, model, papers)
        log_metrics(store, run, papers.metrics, model_id=model.model_id)
        store.client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def _put(store: Store, model: Any, folder: Path) -> None:
    """Add the weights: hard links where the store is a folder of this file system, so that they lie there once.

    That holds through a server too where clients write artifacts themselves (`--no-serve-artifacts` and a `file://`
    root). One that passes artifacts on never tells where they lie, so it is sent a copy. A link is safe, because
    nothing here writes into a file: DVC and effir replace files whole.
    """
    if not model.artifact_location.startswith("file://"):
        store.client.log_model_artifacts(model.model_id, str(folder), f"data/{DATA}")
        return
    place = Path(unquote(urlsplit(model.artifact_location).path), "data", DATA)
    shutil.copytree(folder, place, copy_function=_link, dirs_exist_ok=True)


def _put_papers(store: Store, model: Any, papers: VersionFiles) -> None:
    """Add the papers, last: in a local store the card replaces a link, and never writes through it."""
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder)
        for file, content in papers.files.items():
            write_json(draft / PAPERS / file, content)
        if papers.files:
            store.client.log_model_artifacts(model.model_id, str(draft / PAPERS), PAPERS)
        if papers.card:
            (draft / "README.md").write_text(papers.card, encoding="utf-8")
            _replace(store, model, draft / "README.md", f"data/{DATA}")


def _replace(store: Store, model: Any, file: Path, folder: str) -> None:
    if model.artifact_location.startswith("file://"):
        place = Path(unquote(urlsplit(model.artifact_location).path), folder, file.name)
        with writing(place) as draft:
            shutil.copyfile(file, draft)
    else:
        store.client.log_model_artifact(model.model_id, str(file), folder)


def _link(source: str, target: str) -> str:
    Path(target).unlink(missing_ok=True)
    try:
        os.link(Path(source).resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
    return target


def _begin(store: Store, run: str, content: str, papers: VersionFiles) -> Any:
    from mlflow.entities import LoggedModelOutput

    params = {key: str(value) for key, value in flatten(papers.params).items()}
    model = store.client.create_logged_model(store.experiment_id, DATA, run, {CONTENT: content}, params)
    store.client.log_outputs(run, [LoggedModelOutput(model.model_id, step=0)])
    return model


def _write_package(package: Path, model: Any, folder: Path) -> None:
    """Write all of an MLflow model but its weights, which travel once, from ``folder`` to the store.

    MLflow's own sentence-transformers loader serves it: it trusts the code in the folder and passes params to
    ``encode``, so neither effir nor a pickle is needed, and nothing is loaded here.
    """
    from mlflow import pyfunc
    from mlflow.models import Model

    empty = package.with_name(DATA)
    empty.mkdir()
    card = Model(artifact_path=model.artifact_location, run_id=model.source_run_id, model_id=model.model_id)
    pyfunc.save_model(
        package,
        loader_module="mlflow.sentence_transformers",
        data_path=str(empty),
        mlflow_model=card,
        signature=_signature(folder),
        input_example=["Smooth a noisy signal."],
        pip_requirements=[f"{package_name}=={installed(package_name).split('+')[0]}" for package_name in SERVING],
    )
    card.model_size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    card.save(str(package / "MLmodel"))


def _signature(folder: Path) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    dimension = json.loads((folder / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string)]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, dimension))]),
        params=ParamSchema([ParamSpec("prompt_name", DataType.string, default=None)]),
    )
