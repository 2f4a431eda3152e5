"""`effir sweep` over the real pipeline: killed in the middle, continued, ending with the best trial."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.pipeline.conftest import Project
from tests.pipeline.test_pipeline import Store, alive, wait_for

pytestmark = pytest.mark.pipeline


def experiments(project: Project) -> dict[str, str]:
    """DVC experiments: name to commit."""
    lines = project.git("for-each-ref", "--format=%(refname) %(objectname)", "refs/exps").splitlines()
    refs = (line.split() for line in lines if line.count("/") == 4)
    return {ref.rpartition("/")[2]: commit for ref, commit in refs}


def program_in(project: Project) -> psutil.Process:
    """Find the process that warm.py forked to run in the clone's root."""
    server = str(Path(project.python).parents[1] / "socket")
    running = psutil.process_iter(["cmdline", "cwd"])
    (program,) = (p for p in running if server in (p.info["cmdline"] or ()) and p.info["cwd"] == str(project.root))
    return program


def test_a_killed_sweep_goes_on_and_ends_with_the_best_trial_that_meets_the_target(project: Project) -> None:
    limit = int(0.8 * project.json("metrics/cost.json")["parameters_base_without_embeddings"])
    space = ("--vary", "prune.width=0.5:0.9:0.1")  # all trials share the stages before the cut
    command = ["-m", "effir.cli", "sweep", "--max-parameters", str(limit), *space]
    command += ["--trials", "2", "--name", "found", "--json"]
    with (project.root.parent / "sweep.out").open("wb") as output:
        client = subprocess.Popen(
            [project.python, *command], cwd=project.root, env=project.env, stdout=output, stderr=output
        )
    training = project.root / ".effir/sweeps/found/found-1.log"
    wait_for(
        lambda: training.exists() and "Running stage" in training.read_text(), 300, "the first trial is fine-tuned"
    )
    killed = program_in(project)
    wait_for(lambda: len(killed.children(recursive=True)) > 1, 60, "DVC has started the stage")
    below = killed.children(recursive=True)
    assert any("dvc.cli" in " ".join(process.cmdline()) for process in below)
    killed.send_signal(signal.SIGKILL)
    assert client.wait() == 128 + signal.SIGKILL
    wait_for(lambda: not any(alive(process) for process in below), 10, "its pipeline ends after it")
    before = experiments(project)

    done = subprocess.run(
        [project.python, *command], cwd=project.root, env=project.env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert [trial["experiment"] for trial in found["trials"]] == ["found-1", "found-2"]
    assert all(trial["result"]["parameters"] <= limit for trial in found["trials"])
    assert found["best"] == max(found["trials"], key=lambda trial: trial["result"]["ndcg"])
    assert found["registered"] == f"{found['best']['experiment']}-best"
    after = experiments(project)
    assert {name: after[name] for name in before} == before  # what had run did not run again
    ours = {name for name in after if name.startswith("found")}
    assert not list((project.root / ".dvc/tmp/exps/standalone").glob("tmp*"))  # what the killed one left is gone too
    assert ours == {"found-1-as-cut", "found-1", "found-2-as-cut", "found-2", found["registered"]}

    store = Store(project)
    runs = {name: store.pipelines(name)[0] for name in ours}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    registered = {version.run_id for version in store.client.search_model_versions("name = 'effir-retriever'")}
    assert {name for name, run in runs.items() if run.info.run_id in registered} == {found["registered"]}
    quality = {name: run.data.metrics["tiny/ndcg_at_10"] for name, run in runs.items()}
    assert quality[found["registered"]] == quality[found["best"]["experiment"]] == found["best"]["result"]["ndcg"]
