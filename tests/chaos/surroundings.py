"""What surrounds a command fails: a full disk, a tracking server that dies, a service that is killed, a twin."""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen

from effir.files import sha256_of
from tests.chaos.commands import MORE, Add, Promote
from tests.chaos.fork import Fork, run
from tests.chaos.scenario import Scenario, Trial, asked, calm_run, effir, fresh, must
from tests.chaos.stages import Stage, run_stage, tiny_clone

ROOM = 256 << 20  # bytes of the small disk, once it was enlarged


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Callable[[int], None]]:
    """Mount a disk of ``size`` bytes at ``place``; yield what enlarges it. OSError where it is not allowed."""
    place.mkdir(parents=True, exist_ok=True)

    def mount(*options: str) -> None:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(place)], capture_output=True
        )
        if done.returncode:
            raise OSError(f"mounting is not allowed here: {done.stderr.decode().strip()}")

    mount(f"size={size}")
    try:
        yield lambda bytes_: mount("remount", f"size={bytes_}")
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=False)


def full_disk(scenario: Scenario, work: Path, seed: int, count: int, done: set[int]) -> Iterator[Trial]:
    """Let a command run into a full disk; it says so in a sentence, and with more room it goes on."""
    name, home = f"full disk: {scenario.name}", work / "disk" / re.sub(r"\W+", "-", scenario.name)
    with small_disk(home, ROOM):  # its own, because stores keep whole paths
        calm = calm_run(scenario, home / "made")
        before, after = (pages(home / "made" / name) for name in ("base", "live"))
        kept = work / f"{scenario.name}.base"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(home / "made/base", kept, symlinks=True)
    for number in range(count):
        if number in done:
            continue
        extra = int(random.Random(f"{seed} {name} {number}").uniform(0, after - before + (32 << 10)))
        with small_disk(home, before + extra + (32 << 10)) as enlarge:
            live = home / "made/live"
            try:
                shutil.copytree(kept, live, symlinks=True)
            except (OSError, shutil.Error):
                continue  # too small for what the command finds
            first = run(scenario.act, live)
            enlarge(ROOM)
            fault = "" if first.status in (0, 2) and "Traceback" not in first.output else first.output[-900:]
            outcome = "had room" if first.status == 0 else "disk full"
            if not fault and not scenario.allowed(calm.before, calm.after, asked(scenario, live)):
                fault = "neither the old nor the new is there"
            again = run(scenario.act, live)
            if not fault and again.status and not scenario.was_done(again):
                fault = f"the repetition ended with {again.status}: {again.output[-600:]}"
            if not fault and asked(scenario, live) != calm.after:
                fault = "the repetition left something else"
        yield Trial(name, number, outcome, fault)


def pages(folder: Path) -> int:
    """Return the bytes that a tree takes on a tmpfs, in whole pages."""
    return sum(-(-path.lstat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


class Passage:
    """A way to a server, which can be closed after some connections, as if the server had died."""

    def __init__(self, port: int) -> None:
        self.port, self.left, self.taken = port, -1, 0
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.uri = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            client, _ = self._listening.accept()
            threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.port)) as server:
            back = threading.Thread(target=self._copy, args=(server, client, False), daemon=True)
            back.start()
            self._copy(client, server, True)
            back.join()

    def _copy(self, source: socket.socket, sink: socket.socket, asks: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if asks:
                    self.taken += 1
                    if self.left == 0:
                        break  # dead: the request is not passed on
                    self.left -= self.left > 0
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def lost_server(work: Path, seed: int, count: int, done: set[int]) -> Iterator[Trial]:
    """Let the tracking server die in the middle of `effir promote`, come back, and repeat the command."""
    from tests.tracking.conftest import Server, free_port

    name, scenario = "tracking server dies in promote", Promote(work)
    if done >= set(range(count)):
        return
    home = work / "server"
    shutil.rmtree(home, ignore_errors=True)
    (home / "live").mkdir(parents=True)
    must(run(partial(scenario.prepare, home / "live"), home / "live"))
    shutil.copytree(home / "live", home / "base")
    server = Server(home, f"sqlite:///{home}/live/mlflow.db", free_port(), ("--no-serve-artifacts",))
    server.start()
    passage = Passage(server.port)
    environment = dict(os.environ)
    os.environ |= {"MLFLOW_TRACKING_URI": passage.uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    try:
        before = asked(scenario, home / "live")
        asks, passage.taken = None, 0
        must(run(scenario.act, home / "live"))
        asks, after = passage.taken, asked(scenario, home / "live")
        for number in range(count):
            if number in done:
                continue
            must(run(partial(reset, before), home / "live"))
            passage.left = random.Random(f"{seed} {name} {number}").randrange(asks)
            first = run(scenario.act, home / "live")
            passage.left = -1
            now = asked(scenario, home / "live")
            again = run(scenario.act, home / "live")
            fault = ""
            if "Traceback" in first.output or first.status not in (0, 2):
                fault = first.output[-900:]
            elif not scenario.allowed(before, after, now):
                fault = f"the aliases are {now}"
            elif (again.status and not scenario.was_done(again)) or asked(scenario, home / "live") != after:
                fault = f"the repetition: {again.output[-600:]}"
            yield Trial(name, number, "finished first" if first.status == 0 else "server died", fault)
    finally:
        server.kill()
        os.environ.clear()
        os.environ |= environment


def reset(aliases: dict[str, int]) -> None:
    """Give the versions the aliases that they had."""
    from effir.tracking.store import open_store

    client = open_store().client
    for alias in client.get_registered_model("effir-retriever").aliases:
        client.delete_registered_model_alias("effir-retriever", alias)
    for alias, version in aliases.items():
        client.set_registered_model_alias("effir-retriever", alias, str(version))


def killed_service(model: Path, work: Path, seed: int, count: int, done: set[int]) -> Iterator[Trial]:
    """Kill `effir serve` while it answers and documents are added; started again, it answers as never stopped."""
    scenario, name = Add(model), "serve"
    home = work / "service"
    calm_run(scenario, home)
    for number in range(count):
        if number in done:
            continue
        draw, live = random.Random(f"{seed} {name} {number}"), fresh(home)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        wanted = answers(live, port)
        serving = Fork(partial(effir, "serve", "index", "--port", str(port)), live)
        search(port)  # it is up
        adding = Fork(scenario.act, live)
        ended = serving.wait(after=time.monotonic() - serving._began + draw.uniform(0, 0.5))
        fault = ended.output[-900:] if "Traceback" in ended.output else ""
        must(adding.wait())
        found = answers(live, port)
        if not fault and (wanted == found or {f"d{d}" for d in range(50, 54)} - set(found)):
            fault = f"after the addition it finds {found}"
        yield Trial(name, number, "killed by the clock" if ended.status == -9 else "finished first", fault)


def answers(live: Path, port: int) -> list[str]:
    """Start the service, ask it once, and stop it."""
    serving = Fork(partial(effir, "serve", "index", "--port", str(port)), live)
    try:
        return search(port)
    finally:
        serving.wait(after=0)


def search(port: int) -> list[str]:
    """Search all documents; wait until the service is up."""
    address = f"http://127.0.0.1:{port}/search?q={quote(MORE[-1].text)}&k=100"
    for _ in range(600):
        with suppress(ConnectionError, URLError):
            with urlopen(address, timeout=30) as answer:
                return sorted(hit["id"] for hit in json.loads(answer.read())["hits"])
        time.sleep(0.1)
    raise AssertionError("the service does not answer")


def twins(work: Path, seed: int, count: int, done: set[int]) -> Iterator[Trial]:
    """Two equal runs of a training at once, in two workspaces of one project; one may be killed and repeated."""
    name, home = "two equal trainings at once", work / "twins"
    if done >= set(range(count)):
        return
    shutil.rmtree(home, ignore_errors=True)
    base = tiny_clone(work)
    for number in range(count):
        if number in done:
            continue
        draw, roots = random.Random(f"{seed} {name} {number}"), [home / "one", home / "two"]
        for root in roots:
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(base, root, symlinks=True)
            shutil.rmtree(root / "models/finetuned")
        act = partial(run_stage, "finetune")
        pair = [Fork(act, root, project=roots[0]) for root in roots]
        killed = draw.random() < 0.5
        ends = [pair[0].wait(after=draw.uniform(0.2, 6)) if killed else pair[0].wait(), pair[1].wait()]
        if killed:
            ends[0] = run(act, roots[0])
        wanted = sha256_of(base / "models/finetuned")
        made = [sha256_of(root / "models/finetuned") if (root / "models/finetuned").exists() else "" for root in roots]
        bad = [end.output[-700:] for end in ends if end.status or "Traceback" in end.output]
        fault = bad[0] if bad else "" if made == [wanted] * 2 else "the weights are others"
        yield Trial(name, number, "one killed" if killed else "both finished", fault)


def disk_scenarios(model: Path, work: Path) -> list[Scenario]:
    """List what is run on a small disk."""
    return [Add(model), Stage("finetune", work, removed=True), Stage("index", work, removed=True)]
