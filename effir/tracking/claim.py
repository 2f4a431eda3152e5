"""A claim on a registered model: who moves its aliases does so alone, from whatever machine.

MLflow has no compare-and-set, but names of registered models are unique: making one is atomic.
"""

import getpass
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from effir.errors import EffirError
from effir.tracking import Store, store_errors

SUFFIX = ".promotion-in-progress"
WAIT_SECONDS = 30.0
STALE_SECONDS = 600.0  # by this clock against the store's: they may differ by minutes, hardly by more
TOKEN, HOLDER = "effir.token", "effir.holder"


@contextmanager
def claimed(store: Store, name: str, wait: float = WAIT_SECONDS) -> Iterator[Callable[[], bool]]:
    """Hold the claim on model ``name``; yields a function that tells whether it is still held.

    A claim that a killed process left is taken over after ``STALE_SECONDS``. EffirError where another one is held for
    longer than ``wait`` seconds.
    """
    claim, token, deadline = f"{name}{SUFFIX}", uuid.uuid4().hex, time.monotonic() + wait
    while not _make(store, claim, token):
        _remove_stale(store, claim)
        if time.monotonic() >= deadline:
            raise EffirError(
                f"{name} is being promoted or rolled back by {_tag(store, claim, HOLDER)} for more than {wait:.0f} s: "
                f"try again, at the latest in {STALE_SECONDS / 60:.0f} minutes"
            )
        time.sleep(0.2)
    try:
        yield lambda: _tag(store, claim, TOKEN) == token
    finally:
        with suppress(*store_errors()):  # what is done is done; what stays of it gets stale
            if _tag(store, claim, TOKEN) == token:
                store.client.delete_registered_model(claim)


def _make(store: Store, claim: str, token: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        store.client.create_registered_model(claim, {TOKEN: token, HOLDER: _who()})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return _tag(store, claim, TOKEN) == token  # ours, where MLflow asked again because an answer got lost
    return True


def _remove_stale(store: Store, claim: str) -> None:
    for held in store.client.search_registered_models(f"name = '{claim}'"):
        if time.time() - held.creation_timestamp / 1000 > STALE_SECONDS:
            with suppress(*store_errors()):  # another one was quicker
                store.client.delete_registered_model(claim)


def _tag(store: Store, claim: str, tag: str) -> str | None:
    for held in store.client.search_registered_models(f"name = '{claim}'"):
        return str(held.tags.get(tag))
    return None


def _who() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a container's user without a name
        return socket.gethostname()
