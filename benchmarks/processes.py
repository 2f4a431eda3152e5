"""A call or a service in a process of its own, and the most memory that a process held."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Served:
    """A service that runs: where, and its process."""

    address: str
    process: subprocess.Popen[str]


@contextmanager
def serving(index: Path) -> Iterator[Served]:
    """Serve an index at a free port by the command that a person types; the service is killed in the end."""
    command = [sys.executable, "-m", "effir.cli", "serve", str(index), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Served(json.loads(process.stdout.readline())["address"] if process.stdout else "", process)
        finally:
            process.kill()
