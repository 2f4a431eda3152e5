import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from effir.cli import main

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def effir(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_search_without_an_index_names_the_command_that_makes_it(project: Path) -> None:
    result = effir("search", "smooth a noisy signal")
    assert result.exit_code == 2
    assert result.output == "Error: indexes/apidocs is missing: run `dvc repro index@apidocs`\n"


def test_search_outside_a_project_says_where_to_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = effir("search", "smooth a noisy signal")
    assert result.exit_code == 2
    assert "params.yaml is missing: run this in the project's root" in result.output


def test_profile_use_prints_each_change(project: Path) -> None:
    result = effir("profile", "use", "mistral-7b")
    assert result.exit_code == 0
    assert "prune.depth: 10 -> 16" in result.output.splitlines()


def test_an_unknown_profile_is_one_sentence(project: Path) -> None:
    result = effir("profile", "use", "nope")
    sentence = "there is no profile 'nope': choose one of beir, default, mistral-7b, smoke"
    assert (result.exit_code, result.output) == (2, f"Error: {sentence}\n")


@pytest.mark.parametrize("command", [("search",), ("profile", "list"), ("profile", "use")])
def test_every_command_shows_an_example(command: tuple[str, ...]) -> None:
    assert "Example: effir" in effir(*command, "--help").output
