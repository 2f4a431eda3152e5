"""Trials that have run already, in a git repository with the refs of DVC's experiments."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from effir.errors import EffirError
from effir.lab.settings import Value
from effir.lab.studies import in_experiments
from effir.lab.trials import TrialError, remove_torn_locks, run_trial, uncached_stages
from effir.params import Scalar

PARAMS = (
    "data: {eval: [apidocs-dev]}\nprune: {width: 0.8}\nfinetune: {learning_rate: 1.0e-4}\nregister: {version: false}\n"
)
PLAIN: dict[str, Scalar] = {"prune.width": 0.8}


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with the experiment `sweep-1`, and the log of its run that must not be written again."""
    files = {
        "params.yaml": PARAMS,
        "dvc.lock": "{}",
        "metrics/apidocs-dev.json": json.dumps({"ndcg_at_10": 0.5}),
        "metrics/cost.json": json.dumps({"kept_share": 0.6}),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@test")
        done = subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    head = git("rev-parse", "HEAD")
    git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/sweep-1", head)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "sweep-1.log"


def test_a_trial_that_ran_is_read_and_does_not_run_again(ran: Path) -> None:
    # As DVC's command line has them: a list, a number in another form, a truth value as text.
    settings = {"data.eval": "[apidocs-dev]", "finetune.learning_rate": "1e-4", "register.version": "false"}
    found = run_trial("sweep-1", {**settings, "prune.width": 0.8}, {"prune.width": 0.5}, ran, lambda stage: None)
    assert found.quality["apidocs-dev"]["ndcg_at_10"] == 0.5
    assert not ran.exists()


@pytest.mark.parametrize(
    ("settings", "params"), [({"prune.width": 0.7}, {}), ({}, {"prune.width": 0.7}), ({"prune.width": 0.7}, PLAIN)]
)
def test_an_experiment_with_other_params_is_not_taken_for_the_trial(
    ran: Path, settings: dict[str, Value], params: dict[str, Scalar]
) -> None:
    said = r"^the experiment sweep-1 exists with prune\.width=0\.8, now 0\.7: restore that value, remove the exp"
    with pytest.raises(EffirError, match=said):
        run_trial("sweep-1", settings, params, ran, lambda stage: None)


def test_an_experiment_with_other_params_is_not_taken_for_a_run_of_a_study(ran: Path) -> None:
    run = in_experiments(print, {}, {"prune.width": 0.7})
    with pytest.raises(EffirError, match=r"^the experiment sweep-1 exists with prune\.width=0\.8, now 0\.7"):
        run("sweep-1", {}, ran)
    assert in_experiments(print, {}, PLAIN)("sweep-1", {}, ran).quality["apidocs-dev"]["ndcg_at_10"] == 0.5


def test_a_trial_that_another_process_runs_is_refused(ran: Path) -> None:
    log = ran.with_name("sweep-2.log")
    with log.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(EffirError, match="another process runs the trial sweep-2: wait until it ends"):
            run_trial("sweep-2", {}, {}, log, lambda stage: None)


@pytest.mark.slow
def test_stages_without_cached_outputs_are_named_once_before_a_study_runs(
    ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clone brings dvc.lock and no cache: DVC then runs a stage anew for each experiment, whatever ran before."""
    stages = (
        "  one: {cmd: echo 1 > one, outs: [one]}",
        "  two: {cmd: echo 2 | tee two figures.json, outs: [two], metrics: [{figures.json: {cache: false}}]}",
    )
    Path("dvc.yaml").write_text("\n".join(["stages:", *stages]))
    Path("dvc.lock").unlink()
    for arguments in (["init"], ["repro", "--quiet"]):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, capture_output=True)
    assert uncached_stages() == []
    Path("figures.json").unlink()  # git keeps it, not the cache
    assert uncached_stages() == []
    shutil.rmtree(".dvc/cache")
    assert uncached_stages() == ["one", "two"]

    said: list[str] = []
    monkeypatch.setattr("effir.lab.trials.CHILD", "")  # DVC that ends at once, and made nothing
    run = in_experiments(said.append, {}, PLAIN)
    assert run("sweep-1", {}, ran)  # is there: nothing is made
    assert said == []
    for name in ("sweep-2", "sweep-3"):
        with pytest.raises(TrialError, match="failed"):
            run(name, {}, ran.with_name(f"{name}.log"))
    hint = (
        "DVC's cache lacks outputs of one, two, which dvc.lock lists: every run makes them again. Stop this and run "
        "`make repro` once"
    )
    assert [one for one in said if "starting" not in one] == [hint]


def test_the_workspace_of_a_killed_trial_is_removed_and_no_other(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspaces = ran.parent / ".dvc/tmp/exps/standalone"
    for name, folder in {"sweep-2": "tmp-ours", "other": "tmp-another"}.items():
        record = workspaces / "run" / name / f"{name}.run"
        record.parent.mkdir(parents=True)
        record.write_text(json.dumps({"name": name, "root_dir": str(workspaces / folder)}))
        (workspaces / folder).mkdir()
    (workspaces / "run/torn.run").write_text('{"name": "swe')
    monkeypatch.setattr("effir.lab.trials.CHILD", "")  # DVC that ends at once, and made nothing
    with pytest.raises(TrialError, match="trial sweep-2 failed"):
        run_trial("sweep-2", {}, {}, ran.with_name("sweep-2.log"), lambda stage: None)
    assert sorted(path.name for path in workspaces.glob("tmp*")) == ["tmp-another"]


@pytest.mark.parametrize("name", [".dvc/tmp/rwlock", "dvc.lock"])
@pytest.mark.parametrize(("text", "age", "left"), [("", 10, False), ("", 0, True), ("{}", 10, True)])
def test_the_lock_file_of_a_dvc_that_was_killed_while_it_wrote_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, age: float, left: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    remove_torn_locks()  # there is none
    lock = Path(name)
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(text)
    os.utime(lock, (time.time() - age,) * 2)
    remove_torn_locks()
    assert lock.exists() == left
