"""A call in a process of its own, and the most memory that a process held."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def apart(measure: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call in a fresh process, so that its memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(measure, *args, **kwargs).result()


def peak_memory() -> int:
    """Return the most bytes of memory that this process ever held, by Linux (`getrusage` carries over its parent's)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def forget_peak() -> None:
    """Let Linux begin anew: from here on :func:`peak_memory` tells the most that is held."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
