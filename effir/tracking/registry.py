"""Model versions and aliases in the MLflow registry."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from effir.files import read_json, require, sha256_of, write_json
from effir.params import flatten
from effir.tracking.runs import log_points, points_of
from effir.tracking.store import Store, open_store, reaching

CONTENT = "effir.sha256"
PAPERS = "effir"
CHAMPION, PREVIOUS = "champion", "previous"  # aliases of the version that serves, and of the one that did
DATA, CARD = "retriever", "README.md"
ALIASES = (  # the description of a registered model, in Markdown
    f"`{CHAMPION}` serves. `{{alias}}` is the newest version: `effir promote` makes it the {CHAMPION} if it is no "
    f"worse. `{PREVIOUS}` served before: `effir rollback` makes it the {CHAMPION} again."
)
SERVING = ("sentence-transformers", "transformers", "torch")


@dataclass(frozen=True)
class VersionFiles:
    """What a version carries beside its weights, so that it can be judged without the run that made it.

    ``card`` is the README.md of the registered folder, ``description`` heads the version (both Markdown);
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

    A run's folder of the same content is registered once; only a new version gets ``tags``. The served model takes
    texts and gives (texts, dimension) float32 vectors, as documents, or as queries with
    ``params={"prompt_name": "query"}``. MissingError if the folder is missing.
    """
    require(folder / "modules.json")
    store, content = open_store(), sha256_of(folder)
    version = _registered(store, name, pipeline_run_id, content)
    if version is None:
        model_id = _upload(store, folder, pipeline_run_id, content, papers)
        _create_model(store, name, alias)
        own, about = {**tags, CONTENT: content}, papers.description or None
        made = store.client.create_model_version(
            name, f"models:/{model_id}", pipeline_run_id, own, description=about, model_id=model_id
        )
        version = int(made.version)
    store.client.set_registered_model_alias(name, alias, str(version))
    return version


def local_folder(model: Any) -> Path | None:
    """Return the folder of a logged model if the store is a folder of this file system."""
    place = urlsplit(model.artifact_location)
    return Path(unquote(place.path)) if place.scheme == "file" else None


def _registered(store: Store, name: str, run: str, content: str) -> int | None:
    found = store.client.search_model_versions(f"name = '{name}' and run_id = '{run}'")
    return next((int(version.version) for version in found if version.tags.get(CONTENT) == content), None)


def _create_model(store: Store, name: str, alias: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        store.client.create_registered_model(name, description=ALIASES.format(alias=alias))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _upload(store: Store, folder: Path, run: str, content: str, papers: VersionFiles) -> str:
    """Put the folder into the store as a logged model of ``run``; complete what a killed process began."""
    condition = f"source_run_id = '{run}' and tags.`{CONTENT}` = '{content}'"
    begun = store.client.search_logged_models([store.experiment_id], condition)
    model = begun[0] if begun else _begin(store, run, content, papers)
    if model.status != "READY":
        _put_weights(store, model, folder, papers)
        with tempfile.TemporaryDirectory() as draft:
            package = Path(draft, "package")
            _write_package(package, model, folder)
            for file, value in papers.files.items():
                write_json(package / PAPERS / file, value)
            if papers.card:
                (package / "data" / DATA / CARD).write_text(papers.card, encoding="utf-8")
            store.client.log_model_artifacts(model.model_id, str(package))
        log_points(store, run, points_of(papers.metrics), model.model_id)
        store.client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def _put_weights(store: Store, model: Any, folder: Path, papers: VersionFiles) -> None:
    """Add the retriever's folder, as hard links if the store is a folder of this file system: no byte is copied.

    That holds for a server too if its clients write artifacts themselves (`--no-serve-artifacts` and a `file://` root).
    A server that passes artifacts on gets a copy. A link is safe: DVC and effir replace files, and never write into
    one. Another model card comes with the package, and MLflow must not write it through a link.
    """
    place = local_folder(model)
    if place is None:
        store.client.log_model_artifacts(model.model_id, str(folder), f"data/{DATA}")
        return
    shutil.copytree(folder, place / "data" / DATA, copy_function=_link, dirs_exist_ok=True)
    if papers.card:
        (place / "data" / DATA / CARD).unlink(missing_ok=True)


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
    """Write all of an MLflow model except its weights, which go from ``folder`` to the store directly.

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

    dimension = read_json(folder / "config.json")["hidden_size"]
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string)]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, dimension))]),
        params=ParamSchema([ParamSpec("prompt_name", DataType.string, default=None)]),
    )
