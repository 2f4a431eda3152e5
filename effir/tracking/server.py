"""Whether an MLflow server answers: asked once and quickly, because MLflow itself would retry for minutes."""

import json
from queue import Empty, Queue
from threading import Thread
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from effir.errors import EffirError

EXPERIMENT = "effir"
CONNECT_SECONDS, READ_SECONDS = 3.0, 5.0
ANSWER_SECONDS = 9.0  # a host name may resolve slower than any timeout of the request itself
QUESTION = "/api/2.0/mlflow/experiments/get-by-name"
START = "start it, or mend MLFLOW_TRACKING_URI"
LOG_IN = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"


class StoreError(EffirError):
    """The MLflow store cannot be used: ``what`` is wrong with it, and the ``remedy``."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}: {remedy}")
        self.what = what
        self.remedy = remedy


def require_answer(uri: str) -> None:
    """Ask the server at an http(s) ``uri`` one cheap question, with MLflow's own credentials; others pass unasked.

    StoreError within ``ANSWER_SECONDS`` where it does not answer, does not let us in, or is no MLflow server.
    """
    if not uri.startswith(("http://", "https://")):
        return
    answers: Queue[Any] = Queue()
    Thread(target=lambda: answers.put(_ask(uri)), daemon=True).start()
    try:
        answer = answers.get(timeout=ANSWER_SECONDS)
    except Empty:
        problem: tuple[str, str] | None = (f"does not answer within {ANSWER_SECONDS:.0f} s", START)
    else:
        problem = _unreached(answer) if isinstance(answer, Exception) else _refused(answer)
    if problem:
        raise StoreError(f"the MLflow server {shown(uri)} {problem[0]}", problem[1])


def shown(uri: str) -> str:
    """Return an address without its password.

    >>> shown("postgresql://effir:secret@db:5432/mlflow")
    'postgresql://effir:***@db:5432/mlflow'
    """
    parts = urlsplit(uri)
    if parts.password is None:
        return uri
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{parts.netloc.rpartition('@')[2]}"))


def _ask(uri: str) -> Any:
    """Return the response, or the exception in its place."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        return http_request(
            get_default_host_creds(uri),
            QUESTION,
            "GET",
            params={"experiment_name": EXPERIMENT},
            max_retries=0,
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            raise_on_status=False,
        )
    except (MlflowException, OSError, ValueError) as error:
        return error


def _unreached(error: Exception) -> tuple[str, str]:
    from requests.exceptions import SSLError, Timeout

    beneath = error.__cause__ or error.__context__ or error
    text = " ".join(str(beneath).split())
    if isinstance(beneath, Timeout) or "timed out" in text:
        seconds = CONNECT_SECONDS if "connect timeout" in text else READ_SECONDS
        return f"does not answer within {seconds:.0f} s", START
    if isinstance(beneath, SSLError):
        return f"cannot be trusted ({text})", "set MLFLOW_TRACKING_SERVER_CERT_PATH to its certificate"
    if "Failed to resolve" in text:
        return "has a host name that does not resolve", START
    if "Connection refused" in text:
        return "refuses connections", START
    return f"cannot be reached ({text})", START


def _refused(response: Any) -> tuple[str, str] | None:
    status, text = response.status_code, " ".join(response.text.split())[:160]
    if status == 401:
        return "does not let us in (401)", LOG_IN
    if status == 403:
        return f"does not let us in (403, {text})", f"{LOG_IN}, or have its --allowed-hosts name it"
    if status >= 500:
        return f"answers with an error ({status}, {text})", "look at its log and start it again"
    if not _speaks_mlflow(response.text):
        return f"is none: it answers MLflow's API with {status}", "mend MLFLOW_TRACKING_URI"
    return None


def _speaks_mlflow(text: str) -> bool:
    """Whether it is the experiment, or MLflow's own way to say that there is none yet."""
    try:
        answer = json.loads(text)
    except ValueError:
        return False
    return isinstance(answer, dict) and bool({"experiment", "error_code"} & answer.keys())
