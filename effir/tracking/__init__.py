"""MLflow, behind one door: only this package imports it, and late, because that costs a second."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from filelock import FileLock, Timeout

from effir.errors import EffirError
from effir.files import project_root, state_dir, writing
from effir.tracking.server import EXPERIMENT, START, StoreError, require_answer, shown

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for each small file says nothing
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines for each run that ends
# MLflow's own 7 retries take over four minutes; these bridge a hiccup, and a lost server is noticed in seconds.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")

LOCK_SECONDS = 120.0


@dataclass(frozen=True)
class Store:
    """An open MLflow store: its address, an ``MlflowClient`` on it, and the id of effir's experiment there."""

    uri: str
    client: Any
    experiment_id: str


def tracking_uri() -> str:
    """Return ``MLFLOW_TRACKING_URI``, else MLflow's own default, ``mlflow.db`` in the project root.

    A relative sqlite path is one under the project root, so that DVC's temporary folders write the same store.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    scheme, _, path = uri.partition(":///")
    return _sqlite_uri(project_root() / unquote(path)) if scheme == "sqlite" else uri


def open_store() -> Store:
    """Open the store at ``tracking_uri()``, made where absent, safely from several processes at once.

    Artifacts go to ``<project root>/mlruns/effir``, or where a tracking server keeps them. StoreError, within about 10
    seconds, where the store does not open.
    """
    return _open(tracking_uri(), project_root())


@contextmanager
def reaching() -> Iterator[None]:
    """Turn the errors of a store that is lost in the middle into StoreError; also as a decorator."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        if not is_loss(error):
            raise
        uri = tracking_uri()
        require_answer(uri)  # says it better where the server is gone
        what = f"the MLflow store {shown(uri)} failed ({first_line(error)})"
        raise StoreError(what, "mend it, then try again") from error


def is_loss(error: Exception) -> bool:
    """Whether the store is at fault, and not what was asked of it."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        status = int(error.get_http_status_code())
    else:  # of requests, where there was an answer
        status = getattr(getattr(error, "response", None), "status_code", 500)
    return isinstance(error, store_errors()) and (status >= 500 or status in (401, 403, 429))


def store_errors() -> tuple[type[Exception], ...]:
    """Name what using a store may raise; importing them costs a second."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return StoreError, MlflowException, RequestException, SQLAlchemyError


def first_line(error: Exception) -> str:
    """Return what an error says, without what follows in further lines."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def store_lock() -> Iterator[None]:
    """Hold off every other effir process of this project: for what must be looked up and made in one go."""
    path = state_dir("locks") / "mlflow.lock"
    try:
        with FileLock(path, timeout=LOCK_SECONDS):
            yield
    except Timeout:
        raise EffirError(
            f"{path} is held by another process for {LOCK_SECONDS:.0f} s: end it, then try again"
        ) from None


@cache
def _open(uri: str, root: Path) -> Store:
    fatal: tuple[type[Exception], ...] = (*store_errors(), sqlite3.Error, OSError)
    _quieten()
    require_answer(uri)
    try:
        with store_lock():
            _prepare_sqlite(uri)
            client = _client(uri)
            _make_default(uri)
            return Store(uri, client, _experiment(client, None if uri.startswith("http") else root / "mlruns"))
    except fatal as error:
        remedy = START if uri.startswith("http") else "mend MLFLOW_TRACKING_URI"
        raise StoreError(f"the MLflow store {shown(uri)} does not open ({first_line(error)})", remedy) from error


def _experiment(client: Any, artifacts: Path | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        location = artifacts and (artifacts / EXPERIMENT).as_uri()
        try:
            return str(client.create_experiment(EXPERIMENT, artifact_location=location))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return _experiment(client, artifacts)  # another machine was quicker
    if found.lifecycle_stage != "active":
        command = f"mlflow experiments restore --experiment-id {found.experiment_id}"
        raise EffirError(f"the MLflow experiment {EXPERIMENT!r} is deleted: run `{command}`")
    return str(found.experiment_id)


def _prepare_sqlite(uri: str) -> None:
    """Make a missing sqlite store whole or not at all, and fail at once on a file that MLflow would retry for minutes.

    MLflow cannot mend a schema whose making was killed in the middle.
    """
    if not uri.startswith("sqlite:///"):
        return
    path = Path(unquote(uri.removeprefix("sqlite:///")))
    if not path.exists():
        with writing(path) as draft:
            _client(_sqlite_uri(draft)).get_experiment_by_name(EXPERIMENT)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA schema_version")


def _sqlite_uri(path: Path) -> str:
    return f"sqlite:///{quote(str(path))}"


def _client(uri: str) -> Any:
    import mlflow

    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def _make_default(uri: str) -> None:
    """Let MLflow itself use the store too: its registry looks logged models up in the default one, not the client's."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)


def _quieten() -> None:
    import logging

    import mlflow  # noqa: F401 - it sets these levels itself

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
