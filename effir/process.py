"""Tell processes apart, and end a stage when the process that started it is gone."""

import os
import re
import signal
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from socket import gethostname

import psutil

KILLED = 128 + signal.SIGTERM
SHELLS = {"sh", "bash", "dash", "zsh", "ash"}


def identity() -> str:
    """Name this process as no other one is named, on any machine and in any container: words of letters and digits."""
    return f"{_kernel()}-{os.getpid()}-{psutil.Process().create_time():.0f}"


def has_ended(identity: str) -> bool:
    """Tell whether the process of an :func:`identity` has certainly ended; of another container, nobody can tell."""
    kernel, pid, began = identity.rsplit("-", 2) if identity.count("-") == 2 else ("", "0", "0")
    if kernel != _kernel():
        return False
    try:
        process = psutil.Process(int(pid))
        # The start in seconds, because a process id is given again later.
        return abs(process.create_time() - int(began)) >= 2 or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@cache
def _kernel() -> str:
    """Name the running kernel and the process namespace in which ids of processes mean what they mean here."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return f"{boot.replace('-', '')[:12]}n{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # not Linux
        return re.sub(r"\W", "", gethostname()) or "here"


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
