"""End a stage when the process that started it is gone."""

import os
import signal
import threading
import time
from contextlib import suppress

import psutil

KILLED = 128 + signal.SIGTERM
SHELLS = {"sh", "bash", "dash", "zsh", "ash"}


def die_with_parent(poll: float = 0.5) -> None:
    """End this process and its children when its parent program is gone; check every ``poll`` seconds.

    A killed DVC leaves its stage running, and the orphan would overwrite the outputs of the next run. If DVC was
    killed before this call, the process ends at once.
    """
    parent = _starter()
    if parent is not None and _adopted(parent):
        os._exit(KILLED)
    if parent is not None:
        threading.Thread(target=_watch, args=(parent, poll), daemon=True).start()


def _starter() -> psutil.Process | None:
    # DVC starts a stage through a shell, which outlives DVC: watch the process above the shells.
    above = psutil.Process().parents()
    return next((p for p in above if p.pid == 1 or p.name() not in SHELLS), None)


def _adopted(parent: psutil.Process) -> bool:
    """Return whether this is an orphaned stage of DVC: its parent is process 1 or the systemd of a session."""
    takes = parent.pid == 1 or parent.name() == "systemd"
    return takes and "DVC_STAGE" in os.environ and not parent.name().startswith(("python", "dvc"))


def _watch(parent: psutil.Process, poll: float) -> None:
    while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
        time.sleep(poll)
    for below in psutil.Process().children(recursive=True):  # a child that is still importing does not watch yet
        with suppress(psutil.NoSuchProcess):
            below.kill()
    os._exit(KILLED)
