"""Run a call in a fork of this process, and kill it: before one of its file operations, or after some seconds."""

import mmap
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

# What changes a file system, as Python's audit hooks name it; what C++ does by itself is met by the kills by time.
CHANGES = {f"os.{name}" for name in "rename remove mkdir rmdir link symlink truncate chmod".split()} | {
    "sqlite3.connect"
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
LIMIT = 600.0  # seconds, after which a call counts as stuck


@dataclass(frozen=True)
class Ended:
    """How a call ended: its exit status or minus the signal, its output, its file operations, its seconds."""

    status: int
    output: str
    operations: int
    seconds: float


class Fork:
    """A call that runs in a fork, in the folder ``root``, which is also effir's project root."""

    def __init__(self, call: Callable[[], object], root: Path, project: Path | None = None, before: int = 0) -> None:
        """Kill it before its file operation number ``before`` under ``root``, from 1 on; with 0 do not."""
        self._count, self._began = mmap.mmap(-1, 8), time.monotonic()
        self._log = root.parent / f"{root.name}.{os.getpid()}.{time.monotonic_ns()}.log"
        self._log.touch()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(call, root, project or root, before)
        with suppress(OSError):  # the child has done it itself
            os.setpgid(self.pid, self.pid)

    def wait(self, after: float = LIMIT) -> Ended:
        """Wait for its end; kill it, and what it started, after so many seconds."""
        while (found := os.waitpid(self.pid, os.WNOHANG))[0] == 0:
            if time.monotonic() - self._began > after:
                self.kill()
            time.sleep(0.001)
        self.kill()
        output, seconds = self._log.read_text(errors="replace"), time.monotonic() - self._began
        self._log.unlink()
        return Ended(os.waitstatus_to_exitcode(found[1]), output, int.from_bytes(self._count[:8], "little"), seconds)

    def kill(self) -> None:
        """Kill the whole process group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _run(self, call: Callable[[], object], root: Path, project: Path, before: int) -> NoReturn:
        status = 1
        try:
            os.setpgid(0, 0)
            with self._log.open("wb") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            os.chdir(root)
            os.environ["DVC_ROOT"] = str(project)
            sys.addaudithook(self._watching(root, before))
            call()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _watching(self, root: Path, before: int) -> Callable[[str, tuple[Any, ...]], None]:
        place, operations = str(root), 0

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal operations
            if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING):
                return
            if event == "open" or event in CHANGES:
                if not isinstance(arguments[0], str | os.PathLike):
                    return
                if not os.path.abspath(os.fspath(arguments[0])).startswith(place):
                    return
                operations += 1
                self._count[:8] = operations.to_bytes(8, "little")
                if operations == before:
                    os.kill(os.getpid(), signal.SIGKILL)

        return watch


def run(call: Callable[[], object], root: Path, before: int = 0, after: float = LIMIT) -> Ended:
    """Run a call to its end or its kill."""
    return Fork(call, root, before=before).wait(after)
