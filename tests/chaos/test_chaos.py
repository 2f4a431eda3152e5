"""A small part of `make chaos`: some kills of the index commands, and a few hundred damaged files."""

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.chaos.__main__ import table
from tests.chaos.commands import Add, Build, Delete
from tests.chaos.fork import run
from tests.chaos.parts import model_in
from tests.chaos.scenario import Scenario, Trial, calm_run, one_trial

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_in(tmp_path_factory.mktemp("chaos"))


@pytest.mark.parametrize("command", [Build, Add, Delete])
def test_a_killed_index_command_loses_nothing_and_its_repetition_ends_as_if_it_had_not_been_killed(
    command: type[Build], model: Path, tmp_path: Path
) -> None:
    scenario = command(model)
    calm = calm_run(scenario, tmp_path)
    made = [one_trial(scenario, tmp_path, calm, number, Random(number)) for number in range(3)]
    assert [trial.fault for trial in made] == [""] * 3
    assert {trial.outcome for trial in made} != {"finished first"}


class Careless(Scenario):
    """Replaces a folder as effir once did: it removes the old one first."""

    name = "careless"

    def prepare(self, root: Path) -> None:
        (root / "model").mkdir()
        (root / "model/old").touch()

    def act(self) -> None:
        for path in Path("model").iterdir():
            path.unlink()
        Path("model").rmdir()
        Path("new").mkdir()
        Path("new/fresh").touch()
        Path("new").rename("model")

    def result(self) -> list[str]:
        return sorted(path.name for path in Path("model").iterdir()) if Path("model").exists() else []


def test_the_harness_finds_a_folder_that_is_removed_before_its_successor_is_in_place(tmp_path: Path) -> None:
    scenario = Careless()
    calm = calm_run(scenario, tmp_path)
    assert (calm.before, calm.after, calm.operations) == (["old"], ["fresh"], 5)
    faults = [one_trial(scenario, tmp_path, calm, number, Random(number)).fault for number in range(8)]
    assert any("neither the old nor the new is there: []" in fault for fault in faults)


def test_a_fork_is_killed_before_the_operation_that_is_named(tmp_path: Path) -> None:
    def write() -> None:
        for number in range(3):
            Path(f"{number}").mkdir()

    root = tmp_path / "root"
    root.mkdir()
    ended = run(write, root, before=3)
    assert (ended.status, ended.operations) == (-9, 3)
    assert sorted(path.name for path in root.iterdir()) == ["0", "1"]


def test_the_table_counts_trials_by_outcome_and_names_faults() -> None:
    made = [Trial("add", 0, "killed"), Trial("add", 1, "killed", "lost"), Trial("serve", 0, "finished first")]
    assert table(made).splitlines()[2:] == ["| add | 2 | 2 |  | 1 |", "| serve | 1 |  | 1 | 0 |"]


def test_damaged_files_are_refused_in_a_sentence_or_read(tmp_path: Path) -> None:
    pytest.importorskip("hypothesis")
    from tests.chaos.damage import damaged

    found = list(damaged(tmp_path, 0, 40, {}))
    assert [trial.fault for trial in found] == [""] * 5


def test_the_program_prints_what_it_tried_so_far(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--work", str(tmp_path), "--table"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.splitlines()[0] == "| scenario | trials |  | faults |"
