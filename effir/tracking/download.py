"""A registered retriever as a folder on this machine."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from effir.errors import EffirError
from effir.files import writing
from effir.tracking import Store, is_loss, open_store, reaching
from effir.tracking.promotion import version_named
from effir.tracking.registry import DATA

FORM = re.compile(r"models:/([^/@]+)(?:@|/)([^/@]+)")


@reaching()
def download_model(uri: str, cache: Path) -> Path:
    """Return the folder of ``models:/<name>@<alias>`` or ``models:/<name>/<version>``.

    Where the store is a folder of this file system it is that of the version itself; from a server it is copied into
    ``cache``, once a version. EffirError where there is no such version.
    """
    wanted = FORM.fullmatch(uri)
    if wanted is None:
        raise EffirError(f"{uri} names no registered model: write models:/<name>@<alias> or models:/<name>/<version>")
    store = open_store()
    name, version = wanted[1], version_named(store, wanted[1], wanted[2])
    source = str(store.client.get_model_version(name, str(version)).source)
    model = _logged_model(store, uri, source)
    place = urlsplit(model.artifact_location)
    if place.scheme == "file":
        return Path(unquote(place.path), "data", DATA)
    into = cache / str(model.model_id)
    if not into.is_dir():
        from mlflow.artifacts import download_artifacts

        with writing(into) as draft:
            draft.mkdir()
            download_artifacts(f"models:/{model.model_id}", dst_path=str(draft))
    return into / "data" / DATA


def _logged_model(store: Store, uri: str, source: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return store.client.get_logged_model(source.removeprefix("models:/"))
    except MlflowException as error:
        if is_loss(error):
            raise
        raise EffirError(f"{uri} is no retriever of `dvc repro` ({source}): name a version that is one") from None
