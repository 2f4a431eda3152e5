import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from effir.cli import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
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
    lines = result.output.splitlines()
    assert "prune.depth: 10 -> 16" in lines
    assert lines[-1] == "to go back: git checkout params.yaml"


def test_profile_options_are_what_a_shell_hands_to_dvc(project: Path) -> None:
    before = (project / "params.yaml").read_bytes()
    text = effir("profile", "options", "mistral-7b").output
    words = subprocess.run(["sh", "-c", f"printf '%s\\n' {text}"], capture_output=True, text=True, check=True)
    options = words.stdout.splitlines()
    assert options[::2] == ["-S"] * (len(options) // 2)
    assert "prune.depth=16" in options
    (prompt,) = [option for option in options if option.startswith("retriever.query_prompt=")]
    assert yaml.safe_load(prompt.partition("=")[2]).endswith("Query: ")
    assert (project / "params.yaml").read_bytes() == before


def test_help_lists_every_command_in_a_section_and_training_first() -> None:
    lines = effir("--help").output.splitlines()
    named = [line.split()[0] for line in lines[lines.index("Train and try:") :] if line.startswith("  ")]
    assert named[:2] == ["train", "search"]
    assert sorted(named) == sorted(main.commands)


def test_an_unknown_profile_is_one_sentence(project: Path) -> None:
    result = effir("profile", "use", "nope")
    sentence = "there is no profile 'nope': choose one of beir, mistral-7b, smoke, tiny"
    assert (result.exit_code, result.output) == (2, f"Error: {sentence}\n")


def commands(group: click.Group, *above: str) -> Iterator[tuple[str, ...]]:
    """Every command that does something, by its words."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)
        else:
            yield (*above, name)


@pytest.mark.parametrize("command", list(commands(main)), ids=" ".join)
def test_every_command_shows_an_example_and_speaks_json(command: tuple[str, ...]) -> None:
    text = effir(*command, "--help").output
    assert f"Example: effir {' '.join(command)}" in text
    assert "--json" in text


@pytest.mark.parametrize("command", [(), ("profile",), *commands(main)], ids=" ".join)
def test_help_answers_within_a_second(command: tuple[str, ...]) -> None:
    def seconds() -> float:
        started = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "effir.cli", *command, "--help"], cwd=ROOT, check=True, capture_output=True
        )
        return time.monotonic() - started

    assert min(seconds() for _ in range(3)) < 1  # the machine may be busy with something else once or twice


@pytest.mark.parametrize(
    "command",
    [
        ("search", "signal", "--count", "none"),
        ("profile", "use", "nope"),
        ("train", "nope.csv"),
        ("sweep",),
        ("sweep", "--max-parameters", "many"),
        ("sweep", "--max-parameters", "60M", "--vary", "depth=1:2"),
        ("compare", "no-such-revision"),
        ("promote", "--force"),
    ],
    ids=" ".join,
)
def test_bad_input_ends_with_status_2_and_no_traceback(
    project: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(project))
    done = effir(*command)
    assert done.exit_code == 2
    assert done.output.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in done.output
