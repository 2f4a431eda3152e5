"""The MLflow store: how it is opened, how long its requests may take, and what is said when it is away."""

import logging
import os
import re
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

TIMEOUT, RETRIES = "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    TIMEOUT: "120",
    RETRIES: "5",  # with pauses of 0, 2, 4, 8 and 16 s: a server that is restarted meanwhile is not noticed
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
for setting, value in DEFAULTS.items():
    os.environ.setdefault(setting, value)

EXPERIMENT = "effir"
DESCRIPTION = "mlflow.note.content"
ABOUT = (
    "Each pipeline run holds the runs of its stages. `<set>/ndcg_at_10` is search quality, `cost/kept_share` the share "
    "of the base model's non-embedding parameters that is kept, `cost/document_speedup` the speed-up over that model."
)
LOCK_SECONDS = 120.0
CORRECT = "correct MLFLOW_TRACKING_URI"
START = f"start it, or {CORRECT}"
LOG_IN = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
PROBLEMS = (  # what the error of a request contains; what it says about the server; the remedy
    ("error code 401", "does not let us in (401)", LOG_IN),
    ("error code 403", "does not let us in (403)", f"{LOG_IN}, or add its host name to the server's --allowed-hosts"),
    ("error code 404|not in a valid JSON", "is not an MLflow server", CORRECT),
    ("timed out", "does not answer", START),
    ("SSLError", "cannot be trusted", "set MLFLOW_TRACKING_SERVER_CERT_PATH to its certificate"),
    ("Failed to resolve", "has a host name that does not resolve", START),
    ("Connection refused", "refuses connections", START),
    (r"too many \d+ error responses", "answers with an error", "read its log and start it again"),
)


class StoreError(EffirError):
    """The MLflow store cannot be used: ``what`` is wrong with it, and the ``remedy``."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}: {remedy}")
        self.what = what
        self.remedy = remedy


@dataclass(frozen=True)
class Store:
    """An open MLflow store: its address, an ``MlflowClient`` on it, and the id of effir's experiment there."""

    uri: str
    client: Any
    experiment_id: str


def tracking_uri() -> str:
    """Return ``MLFLOW_TRACKING_URI``, else MLflow's own default, ``mlflow.db`` in the project root.

    A relative sqlite path is under the project root, so that DVC's temporary folders write to the same store.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    scheme, _, path = uri.partition(":///")
    return f"sqlite:///{quote(str(project_root() / unquote(path)))}" if scheme == "sqlite" else uri


def open_store() -> Store:
    """Open the store at ``tracking_uri()`` or create it, safely from several processes; StoreError within 10 s."""
    return _open(tracking_uri(), project_root())


@contextmanager
def quick(wait: bool = False) -> Iterator[None]:
    """Let each request of a block fail within about 10 seconds; with ``wait``, a server may restart (30 s)."""
    before = {name: os.environ[name] for name in (TIMEOUT, RETRIES)}
    os.environ |= {TIMEOUT: "5"} if wait else {TIMEOUT: "5", RETRIES: "1"}
    try:
        yield
    finally:
        os.environ |= before


@contextmanager
def reaching() -> Iterator[None]:
    """Turn the errors of a store that is lost in the middle into StoreError; also as a decorator."""
    try:
        yield
    except Exception as error:
        if not is_loss(error):
            raise
        raise explained(tracking_uri(), error) from error


def is_loss(error: Exception) -> bool:
    """Whether the store is at fault, and not what was asked of it."""
    status = _status(error)
    return isinstance(error, store_errors()) and (status >= 500 or status in (401, 403, 429))


def explained(uri: str, error: Exception) -> StoreError:
    """Say in one sentence what is wrong with the store at ``uri``, without passwords."""
    text = f"error code {_status(error)}: {error}"
    for pattern, what, remedy in PROBLEMS:
        if uri.startswith("http") and re.search(pattern, text):
            return StoreError(f"the MLflow server {shown(uri)} {what}", remedy)
    return StoreError(f"the MLflow store {shown(uri)} does not work ({shown(first_line(error))})", CORRECT)


def store_errors() -> tuple[type[Exception], ...]:
    """Name what using a store may raise; importing them takes a second."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, RequestException, SQLAlchemyError


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def shown(text: str) -> str:
    """Hide the passwords of the addresses in a text.

    >>> shown("postgresql://effir:secret@db:5432/mlflow")
    'postgresql://effir:***@db:5432/mlflow'
    """
    return re.sub(r"(://[^/\s:@]*):[^/\s]*@", r"\1:***@", text)


@contextmanager
def store_lock() -> Iterator[None]:
    """Keep every other effir process of this project out while something is looked up and created."""
    path = state_dir("locks") / "mlflow.lock"
    try:
        with FileLock(path, timeout=LOCK_SECONDS):
            yield
    except Timeout:
        raise EffirError(f"{path} is held by another process for {LOCK_SECONDS:.0f} s: end that process") from None


@cache
def _open(uri: str, root: Path) -> Store:
    import mlflow  # it sets the levels of these loggers itself

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    fatal: tuple[type[Exception], ...] = (*store_errors(), sqlite3.Error, OSError)
    try:
        with quick(), store_lock():
            _prepare_sqlite(uri)
            client = mlflow.MlflowClient(uri, uri)
            # MLflow's registry looks logged models up in the default store, not in the client's.
            mlflow.set_tracking_uri(uri)
            mlflow.set_registry_uri(uri)
            # Artifacts go to the project root, or where a tracking server keeps them.
            return Store(uri, client, _experiment(client, None if uri.startswith("http") else root / "mlruns"))
    except fatal as error:
        raise explained(uri, error) from error


def _experiment(client: Any, artifacts: Path | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        location = artifacts and (artifacts / EXPERIMENT).as_uri()
        try:
            return str(client.create_experiment(EXPERIMENT, location, {DESCRIPTION: ABOUT}))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return _experiment(client, artifacts)  # another machine was quicker
    if found.lifecycle_stage != "active":
        command = f"mlflow experiments restore --experiment-id {found.experiment_id}"
        raise EffirError(f"the MLflow experiment {EXPERIMENT!r} is deleted: run `{command}`")
    return str(found.experiment_id)


def _prepare_sqlite(uri: str) -> None:
    """Create a missing sqlite store in one step, and fail at once on a file that MLflow would retry for minutes.

    MLflow cannot repair a schema if the process that created it was killed in the middle.
    """
    if not uri.startswith("sqlite:///"):
        return
    from mlflow import MlflowClient

    path = Path(unquote(uri.removeprefix("sqlite:///")))
    if not path.exists():
        with writing(path) as draft:
            MlflowClient(new := f"sqlite:///{quote(str(draft))}", new).get_experiment_by_name(EXPERIMENT)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA schema_version")


def _status(error: Exception) -> int:
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())
    return int(getattr(getattr(error, "response", None), "status_code", 500))  # requests keep the server's answer
