"""Processes that end with the one that started them."""

import os
import signal
import threading
import time

import psutil

SHELLS = {"sh", "bash", "dash", "zsh", "ash"}


def die_with_parent(poll: float = 0.5) -> None:
    """End this process when the program that started it is gone, looking every ``poll`` seconds.

    A killed DVC leaves its stage alive, and the orphan would overwrite the outputs of the next run.
    """
    parent = _starter()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent, poll), daemon=True).start()


def _starter() -> psutil.Process | None:
    # DVC starts a stage through a shell, which outlives it: watch what is above the shells.
    above = psutil.Process().parents()
    return next((p for p in above if p.name() not in SHELLS), None)


def _watch(parent: psutil.Process, poll: float) -> None:
    while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
        time.sleep(poll)
    os._exit(128 + signal.SIGTERM)
