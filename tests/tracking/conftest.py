"""Real tracking servers: `mlflow server` on sqlite, and on PostgreSQL where Debian's package is installed."""

import atexit
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from effir.tracking.runs import finish_pipeline, pipeline_run
from effir.tracking.store import open_store

CHECKOUT = Path(__file__).parents[2]
NAME = "effir-retriever"


@dataclass
class Server:
    """An `mlflow server` whose database, artifacts and log are in ``folder``; it answers once it is started."""

    folder: Path
    database: str
    port: int
    flags: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(self.port)]
        command += ["--backend-store-uri", self.database, *self.flags]
        env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        env.pop("MLFLOW_TRACKING_URI", None)
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=env, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 90
        while not self._answers():
            assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill it and its worker, which is in its process group, as a lost machine would be gone."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        try:
            with urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a PostgreSQL cluster of its own; the address of its database."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no /usr/lib/postgresql/*/bin/initdb: install Debian's package postgresql")
    data, port = Path(f"/tmp/effir-postgresql-{os.getpid()}"), free_port()
    data.mkdir(mode=0o700)
    user = "nobody" if os.geteuid() == 0 else None  # as root, PostgreSQL refuses to run
    if user:
        os.chown(data, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)

    def run(program: str, *arguments: str) -> None:
        command = [str(found[-1].with_name(program)), "-D", str(data / "db"), *arguments]
        subprocess.run(command, check=True, cwd=data, user=user, stdout=subprocess.DEVNULL, timeout=60)

    try:
        run("initdb", "--username=effir", "--auth=trust", "--no-sync")
        options = f"-p {port} -k {data} -c listen_addresses=127.0.0.1 -c fsync=off"
        run("pg_ctl", "start", "--wait", "-o", options, "-l", str(data / "log"))
        yield f"postgresql+psycopg2://effir@127.0.0.1:{port}/postgres"
        run("pg_ctl", "stop", "-m", "immediate")
    finally:
        shutil.rmtree(data)


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a server that passes artifacts on: clients reach them through it alone."""
    folder: Path = tmp_path_factory.mktemp("server")
    database = f"sqlite:///{folder}/mlflow.db" if request.param == "sqlite" else request.getfixturevalue("postgresql")
    started = Server(folder, database, free_port(), ("--artifacts-destination", str(folder / "artifacts")))
    started.start()
    yield started
    started.kill()


def in_project(root: Path, patch: pytest.MonkeyPatch) -> None:
    """Work in ``root`` as in a project of its own: the default params, a store without runs."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        patch.delenv(name, raising=False)
    patch.setenv("DVC_ROOT", str(root))
    patch.chdir(root)
    shutil.copyfile(CHECKOUT / "params.yaml", root / "params.yaml")
    shutil.copyfile(empty_database(), root / "mlflow.db")


@cache
def empty_database() -> Path:
    """Create MLflow's tables once: they take seconds."""
    from mlflow import MlflowClient

    path = Path(tempfile.mkdtemp(prefix="effir-mlflow-"), "mlflow.db")
    atexit.register(shutil.rmtree, path.parent)
    MlflowClient(f"sqlite:///{path}", f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project root with the default params and a store without runs."""
    in_project(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def register(project: Path) -> Callable[..., int]:
    """Register a version whose run has all that `stages.register` leaves, every query scored ``ndcg``."""

    def registered(ndcg: float, speedup: float = 1.5, name: str = NAME, recipe: str = "", seed: int = 0) -> int:
        made = {"recipe": recipe, "training": {"seed": seed}} if recipe else {"ndcg": ndcg}
        params = {**made, "speedup": speedup, "root": str(project)}
        queries = project / "reports/apidocs-queries.json"
        queries.parent.mkdir(exist_ok=True)
        queries.write_text(json.dumps({f"q{i}": {"ndcg_at_10": ndcg} for i in range(30)}))
        finish_pipeline(
            "variant",
            params=params,
            stages=[],
            records=project / "runs",
            metrics={"apidocs/ndcg_at_10": ndcg, "cost/document_speedup": speedup, "cost/kept_share": 0.6},
            artifacts=[Path("reports/apidocs-queries.json")],
            hashes={"data/eval/apidocs": "abc"},
        )
        client, run = open_store().client, pipeline_run(params)
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        found = client.create_model_version(name, f"runs:/{run}/model", run, {"variant": "d10"})
        client.set_registered_model_alias(name, "challenger", found.version)
        return int(found.version)

    return registered
