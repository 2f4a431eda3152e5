"""The versions of a registered model: by number, by alias, or as models:/<name>@<alias> and models:/<name>/<number>."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effir.errors import EffirError
from effir.files import writing
from effir.tracking.registry import CHAMPION, DATA, local_folder
from effir.tracking.runs import known_run
from effir.tracking.store import Store, is_loss, open_store, reaching

FORM = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))")


class UnregisteredError(EffirError):
    """No version of the model is registered. A program that knows what registers one says so."""

    def __init__(self, name: str) -> None:
        self.what = f"no model {name} is registered"
        super().__init__(f"{self.what}: register a version first, or correct the name")


@dataclass(frozen=True)
class ModelVersion:
    """A registered version, ``created`` in milliseconds since 1970; params and metrics are empty if its run is gone."""

    version: int
    aliases: list[str]
    tags: dict[str, str]
    created: int
    params: dict[str, str]
    metrics: dict[str, float]


@reaching()
def model_versions(name: str) -> list[ModelVersion]:
    """List the versions of model ``name``, the newest first; an empty list if it is not registered."""
    store = open_store()
    if not _known(store, name):
        return []
    aliases = aliases_of(store, name)
    found = []
    for one in store.client.search_model_versions(f"name = '{name}'"):
        number, run = int(one.version), known_run(store, one.run_id) if one.run_id else None
        params, metrics = (dict(run.data.params), dict(run.data.metrics)) if run else ({}, {})
        own = sorted(alias for alias, version in aliases.items() if version == number)
        found.append(ModelVersion(number, own, dict(one.tags), one.creation_timestamp, params, metrics))
    return sorted(found, key=lambda version: -version.version)


@reaching()
def run_of_model(uri: str) -> str:
    """Return the pipeline run of a version; EffirError if there is no such version, or it has no run."""
    run = _version(open_store(), uri).run_id
    if not run:
        raise EffirError(f"{uri} was not registered by a pipeline run: name a version that `effir models` lists")
    return str(run)


@reaching()
def download_model(uri: str, cache: Path) -> Path:
    """Return the folder of a registered retriever; EffirError if there is no such version.

    If the store is a folder of this file system, it is that of the version itself. From a server it is copied into
    ``cache``, once for each version.
    """
    store = open_store()
    model = _logged_model(store, uri, str(_version(store, uri).source))
    if place := local_folder(model):
        return place / "data" / DATA
    into = cache / str(model.model_id)
    if not into.is_dir():
        from mlflow.artifacts import download_artifacts

        with writing(into) as draft:
            draft.mkdir()
            download_artifacts(f"models:/{model.model_id}", dst_path=str(draft))
    return into / "data" / DATA


def aliases_of(store: Store, name: str) -> dict[str, int]:
    """Map the aliases of model ``name`` to versions; UnregisteredError if there is no such model."""
    if not _known(store, name):
        raise UnregisteredError(name)
    return {alias: int(version) for alias, version in store.client.get_registered_model(name).aliases.items()}


def number_of(store: Store, name: str, which: str) -> int:
    """Return the number of the version that a number or an alias means; EffirError if there is none."""
    aliases = aliases_of(store, name)
    if which in aliases:
        return aliases[which]
    if which == CHAMPION:
        raise EffirError(f"{name} has no {CHAMPION} yet: run `effir promote` to make a version the {CHAMPION}")
    if not which.isdecimal():
        raise EffirError(f"{name} has no version with the alias {which!r}: `effir models` lists the aliases")
    if not store.client.search_model_versions(f"name = '{name}' and version_number = {int(which)}"):
        raise EffirError(f"{name} has no version {which}: `effir models` lists them")
    return int(which)


def _version(store: Store, uri: str) -> Any:
    wanted = FORM.fullmatch(uri)
    if wanted is None:
        raise EffirError(f"{uri} names no registered model: write models:/<name>@<alias> or models:/<name>/<number>")
    return store.client.get_model_version(wanted[1], str(number_of(store, wanted[1], wanted[2] or wanted[3])))


def _known(store: Store, name: str) -> bool:
    return bool(store.client.search_registered_models(f"name = '{name}'"))


def _logged_model(store: Store, uri: str, source: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return store.client.get_logged_model(source.removeprefix("models:/"))
    except MlflowException as error:
        if is_loss(error):
            raise
        raise EffirError(f"{uri} is not a retriever that effir registered ({source}): name another version") from None
