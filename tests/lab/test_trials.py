"""Trials that have run already, in a git repository that holds what DVC leaves of an experiment."""

import fcntl
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from effir.errors import EffirError
from effir.lab.space import Value
from effir.lab.studies import in_experiments
from effir.lab.trials import TrialError, run_trial, stages_made_anew
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
def test_an_experiment_of_the_name_that_was_made_otherwise_is_not_taken_for_the_trial(
    ran: Path, settings: dict[str, Value], params: dict[str, Scalar]
) -> None:
    said = r"^the experiment sweep-1 was made with prune\.width=0\.8, now 0\.7: go back to that, remove it by `dvc exp"
    with pytest.raises(EffirError, match=said):
        run_trial("sweep-1", settings, params, ran, lambda stage: None)


def test_an_experiment_of_other_params_is_not_taken_for_a_study_s_run(ran: Path) -> None:
    run = in_experiments(print, {}, {"prune.width": 0.7})
    with pytest.raises(EffirError, match=r"^the experiment sweep-1 was made with prune\.width=0\.8, now 0\.7"):
        run("sweep-1", {}, ran)
    assert in_experiments(print, {}, PLAIN)("sweep-1", {}, ran).quality["apidocs-dev"]["ndcg_at_10"] == 0.5


def test_a_trial_that_another_process_runs_is_left_to_it(ran: Path) -> None:
    log = ran.with_name("sweep-2.log")
    with log.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(EffirError, match="another process runs the trial sweep-2: wait for its end"):
            run_trial("sweep-2", {}, {}, log, lambda stage: None)


def test_stages_of_dvc_lock_whose_outputs_are_not_in_the_cache_are_named_before_a_study_runs_them_each_time(
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
    assert stages_made_anew() == []
    Path("figures.json").unlink()  # git keeps it, not the cache
    assert stages_made_anew() == []
    shutil.rmtree(".dvc/cache")
    assert stages_made_anew() == ["one", "two"]

    said: list[str] = []
    monkeypatch.setattr("effir.lab.trials.CHILD", "")  # DVC that ends at once, and made nothing
    run = in_experiments(said.append, {}, PLAIN)
    assert run("sweep-1", {}, ran)  # is there: nothing is made
    assert said == []
    for name in ("sweep-2", "sweep-3"):
        with pytest.raises(TrialError, match="failed"):
            run(name, {}, ran.with_name(f"{name}.log"))
    hint = (
        "DVC's cache lacks what dvc.lock says of one, two: every run makes it anew. Stop this and run `make repro` once"
    )
    assert [one for one in said if "starting" not in one] == [hint]


def test_what_a_kill_left_of_a_trial_goes_before_it_runs_again_and_nothing_else_does(
    ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
