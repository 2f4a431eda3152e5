"""A `python` that starts stages, DVC and effir's commands in forks of a process that has imported the libraries.

A stage of the tiny model computes for a second and imports for five. The programs are the clone's own, each in a
process of its own; what they share is the libraries' modules. Signals go to the program; it ends with its starter's
connection. `make repro` and the test that kills a training run without this.
"""

import array
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

LIBRARIES = """bm25s datasets dvc.cli dvc.repo.experiments.queue.base faiss matplotlib.pyplot mlflow.pyfunc
mlflow.store.tracking.sqlalchemy_store optuna peft scipy.stats sentence_transformers.sentence_transformer.losses
sentence_transformers.sentence_transformer.trainer transformers.models.llama.modeling_llama
transformers.trainer""".split()
WARM = ("stages.", "effir.cli", "dvc")
# Runs without site and imports little: it starts in 20 ms. All else is the real Python's.
CLIENT = """#!{python} -IS
import array, json, os, signal, socket, sys
arguments = sys.argv[1:]
if arguments[:1] != ["-m"] or not arguments[1].startswith({warm!r}):
    os.execv({python!r}, [{python!r}, *arguments])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = json.dumps([os.getcwd(), dict(os.environ), arguments[1:], sys.argv[0]]).encode()
server.sendmsg([len(request).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
server.sendall(request)
program = int.from_bytes(server.recv(8), "big")
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: os.kill(program, number))
status = server.recv(8)
sys.exit(int.from_bytes(status, "big") if status else 70)
"""


@dataclass(frozen=True)
class Request:
    """A program to run: its three standard streams, and what its starter had."""

    descriptors: list[int]
    folder: str
    env: dict[str, str]
    arguments: list[str]
    python: str


@contextlib.contextmanager
def warm_python(home: Path, env: dict[str, str]) -> Iterator[Path]:
    """Write ``home/bin/python`` and keep its server up; yields its path."""
    (home / "bin").mkdir(parents=True)
    address = str(home / "socket")
    client = home / "bin/python"
    client.write_text(CLIENT.format(python=sys.executable, warm=WARM, address=address), encoding="utf-8")
    client.chmod(0o755)
    server = subprocess.Popen([sys.executable, __file__, address], env=env, stdin=subprocess.PIPE)
    try:
        while not Path(address).exists():
            assert server.poll() is None
            time.sleep(0.01)
        yield client
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.wait()


def serve(address: str) -> Request | None:
    """Fork for each connection until standard input ends. Returns what to run in a fork, None in the server."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen(64)
    os.rename(f"{address}.new", address)  # who connects from now on waits for the imports
    for library in LIBRARIES:
        importlib.import_module(library)
    gc.freeze()  # or each fork would copy every page when it collects garbage at its end: 3 s
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    running = dict[int, socket.socket]()
    events = selectors.DefaultSelector()
    for source in (listener, woken, sys.stdin):
        events.register(source, selectors.EVENT_READ)
    while True:
        for key, _ in events.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                request = _request(connection)
                if request is None:
                    continue
                program = os.fork()
                if not program:
                    return request
                for descriptor in request.descriptors:
                    os.close(descriptor)
                running[program] = connection
                events.register(connection, selectors.EVENT_READ, program)
                with contextlib.suppress(OSError):  # its starter is gone, which the next event says
                    connection.sendall(program.to_bytes(8, "big"))
            elif key.fileobj is woken:
                woken.recv(4096)
                _report(running, events)
            elif key.fileobj is sys.stdin:
                _kill(running)
                return None
            else:  # its starter is gone
                _kill([key.data])
                events.unregister(key.fileobj)


def _request(connection: socket.socket) -> Request | None:
    """Read what is to run; None if its starter was killed before it had said so."""
    descriptors, request = array.array("i"), b""
    try:
        head, rights, *_ = connection.recvmsg(8, socket.CMSG_SPACE(3 * descriptors.itemsize))
        for _, _, data in rights:
            descriptors.frombytes(data)
        while more := int.from_bytes(head, "big") - len(request):
            if not (part := connection.recv(min(more, 65536))):
                raise ConnectionError
            request += part
        return Request(list(descriptors), *json.loads(request))
    except (OSError, ValueError):
        for descriptor in descriptors:
            os.close(descriptor)
        connection.close()
        return None


def _report(running: dict[int, socket.socket], events: selectors.BaseSelector) -> None:
    """Tell the starter of each program that has ended its exit status, as a shell counts it."""
    while running:
        program, status = os.waitpid(-1, os.WNOHANG)
        if not program:
            return
        connection, code = running.pop(program), os.waitstatus_to_exitcode(status)
        with contextlib.suppress(KeyError, OSError):  # its starter is gone
            events.unregister(connection)
            connection.sendall((code if code >= 0 else 128 - code).to_bytes(8, "big"))
        connection.close()


def _kill(programs: Iterable[int]) -> None:
    for program in programs:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program, signal.SIGKILL)


def run(request: Request) -> None:
    """Be the program, with the starter's folder, environment and outputs."""
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, descriptor in enumerate(request.descriptors):
        os.dup2(descriptor, number)
    os.closerange(3, 256)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.env)
    sys.path[0], sys.argv, sys.executable = request.folder, request.arguments, request.python
    runpy.run_module(request.arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    asked = serve(sys.argv[1])
    if asked:
        run(asked)
