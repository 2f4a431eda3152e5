"""The daily work as one story (docs/experiments.md), against a tracking server."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.pipeline.conftest import Project
from tests.pipeline.test_pipeline import set_param
from tests.tracking.conftest import Server, free_port

pytestmark = pytest.mark.pipeline

MODEL = "effir-retriever"
SERVED = (
    "import mlflow; print('SHAPE', mlflow.pyfunc.load_model('models:/effir-retriever@champion').predict(['a']).shape)"
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    started = Server(
        tmp_path,
        f"sqlite:///{tmp_path}/mlflow.db",
        free_port(),
        ("--artifacts-destination", str(tmp_path / "artifacts")),
    )
    started.start()
    yield started
    started.kill()


@pytest.fixture
def story(server: Server, project: Project) -> Iterator[Project]:
    """The project after `dvc repro`, with a store of its own."""
    yield replace(project, env={**project.env, "MLFLOW_TRACKING_URI": server.uri})
    project.run(sys.executable, "-m", "dvc", "exp", "remove", "thin", "whole")


def test_the_story(story: Project) -> None:
    # The tiny model's quality and speed are noise: what makes a challenger worse here is its size.
    set_param(story, "register", "max_kept_share", 0.9)
    set_param(story, "register", "min_speedup", 0.1)

    # A repro: its version is the challenger, and becomes the first champion.
    story.dvc("repro", "--force", "--single-item", "register")
    assert story.effir("promote").stdout == f"{MODEL} version 1 is now its champion\n"

    # Two experiments, each with a version of its own.
    story.dvc("exp", "run", "--temp", "--name", "thin", "--set-param", "prune.width=0.5")
    story.dvc("exp", "run", "--temp", "--name", "whole", "-S", "prune.depth=0", "-S", "prune.width=1.0")
    listed = json.loads(story.effir("models", "--json").stdout)
    assert [(one["version"], one["aliases"]) for one in listed] == [(3, ["challenger"]), (2, []), (1, ["champion"])]

    # Side by side, from git and from MLflow alike.
    compared = json.loads(story.effir("compare", "workspace", "thin", "whole", "--json").stdout)
    assert [variant["name"] for variant in compared["variants"]] == ["workspace", "thin", "whole"]
    found = json.loads(story.effir("compare", f"models:/{MODEL}/1", f"models:/{MODEL}/3", "--json").stdout)
    by_git = {one["variant"]: one["test"] for one in compared["differences"]}["whole"]
    assert found["differences"][0]["test"]["difference"] == pytest.approx(by_git["difference"])
    assert compared["variants"][2]["cost"]["kept_share"] == 1

    # The worse one is refused with its reasons, and nothing moves.
    refused = story.effir("promote")
    assert refused.returncode == 1
    first, *reasons = refused.stdout.splitlines()
    assert first == f"{MODEL} version 3 stays challenger:"
    assert (
        "- it keeps 100.0% of the base model's non-embedding parameters, more than register.max_kept_share = 0.9"
        in reasons
    )

    # Forced with a reason, and rolled back.
    assert story.effir("promote", "--force", "--reason", "a demonstration").returncode == 0
    champion, tags = aliases(story)["champion"], json.loads(story.effir("models", "--json").stdout)[0]["tags"]
    assert (champion, tags["effir.promoted_by_force"]) == (3, "a demonstration")
    assert story.effir("rollback").stdout.startswith(f"{MODEL} version 1 is its champion again")
    assert aliases(story) == {"champion": 1, "challenger": 3}

    # The champion serves.
    assert "SHAPE (1, 64)" in story.succeed(sys.executable, "-c", SERVED)


def aliases(project: Project) -> dict[str, int]:
    listed = json.loads(project.effir("models", "--json").stdout)
    return {alias: one["version"] for one in listed for alias in one["aliases"]}
