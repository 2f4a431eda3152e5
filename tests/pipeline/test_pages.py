"""Every command block of README and of the tutorial, word for word, in a clone of its own."""

import os
import re
import shlex
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import click
import pytest
import yaml

from effir.cli import main
from tests.pipeline.conftest import HERE, TINY, Project, copy_tree

pytestmark = pytest.mark.pipeline

RUN = ("docs/tutorial.md", "README.md")  # the first in a clone in which nothing has run, then the second
PAGES = ["README.md", *(str(path.relative_to(HERE)) for path in sorted((HERE / "docs").glob("*.md")))]
FENCED = re.compile(r"(?ms)^```(\w*)\n(.*?)^```$")


def blocks(page: str) -> list[tuple[str, str]]:
    """Return (language, text) of each fenced block of a page."""
    return FENCED.findall((HERE / page).read_text(encoding="utf-8"))


def script_of(page: str) -> str:
    """Write a page's blocks as one bash script that stops where one fails."""
    lines = ["set -e -o pipefail", "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT"]
    for language, text in blocks(page):
        if language == "python":
            lines.append(f"python - <<'BLOCK'\n{text}BLOCK")
        elif not language:
            lines.append(text)
    return "\n".join(lines)


@pytest.fixture
def clone(fresh: Project, tmp_path: Path) -> Project:
    """A clone in which nothing has run, with this environment as its ``.venv``, and a model that is quickly cut."""
    project = Project(tmp_path / "clone", fresh.env)
    copy_tree(project.root)
    # The profile that the tutorial begins with, made smaller still: the rest is as it stands in the clone.
    home, profile = fresh.root.parent, project.root / "profiles/smoke.yaml"
    small = yaml.safe_load(profile.read_text(encoding="utf-8"))
    own = {"collections": {name: str(home / name) for name in ("tiny", "other")}}
    for section, values in {**TINY, "model": {"base": str(home / "llama")}, "register": {"min_speedup": 0.01}}.items():
        small[section] = {**small.get(section, {}), **values}
    small["data"] |= own
    profile.write_text(yaml.safe_dump(small, sort_keys=False), encoding="utf-8")
    environment = Path(sys.prefix)
    _link_environment(environment, project.root / ".venv", Path(fresh.python))
    ready = (environment / ".ready").stat().st_mtime if (environment / ".ready").exists() else None
    if ready is None:
        pytest.skip("make's own environment is not this one: run `make test`")
    for name in ("pyproject.toml", "constraints.txt"):  # older than the environment: nothing is to be installed
        os.utime(project.root / name, (ready - 1, ready - 1))
    project.git("init", "--quiet", "--initial-branch=main")
    project.git("add", "--all")
    project.git("commit", "--quiet", "--message", "a clone")
    return project


def _link_environment(environment: Path, into: Path, python: Path) -> None:
    """Make ``into`` this environment by links, except for its ``python``."""
    (into / "bin").mkdir(parents=True)
    for path in (*environment.iterdir(), *(environment / "bin").iterdir()):
        link = into / path.relative_to(environment)
        if not link.exists():
            link.symlink_to(path)
    activate = (environment / "bin/activate").read_text(encoding="utf-8")
    for name in ("activate", "python"):
        (into / "bin" / name).unlink()
    (into / "bin/activate").write_text(activate.replace(str(environment), str(into)), encoding="utf-8")
    shutil.copy(python, into / "bin/python")


def test_every_block_of_the_tutorial_and_of_readme_runs_as_it_stands(clone: Project) -> None:
    for page in RUN:
        done = clone.run("bash", "-c", script_of(page))
        assert done.returncode == 0, f"{page}: {done.stdout}"


def commands() -> list[tuple[str, str]]:
    """Return (page, command) of each line of effir or DVC that any page shows, in blocks or in the text."""
    found = list[tuple[str, str]]()
    for page in PAGES:
        text = (HERE / page).read_text(encoding="utf-8")
        shown = [line for language, block in FENCED.findall(text) if not language for line in block.splitlines()]
        shown = [line.removeprefix("$ ").split("  #")[0].split(" && ")[0].strip() for line in shown]
        shown += re.findall(r"`([^`\n]+)`", FENCED.sub("", text))
        found += [
            (page, line)
            for line in shown
            if re.match(r"(effir [a-z]|dvc exp run )", line) and not set("…<") & set(line)
        ]
    return sorted(set(found))


@pytest.mark.parametrize(("page", "command"), [pair for pair in commands() if pair[1].startswith("effir ")])
def test_every_command_of_effir_that_a_page_shows_is_one(page: str, command: str) -> None:
    words = [word for word in shlex.split(command)[1:] if word not in ("&", "[--json]")]
    context, group = click.Context(main, info_name="effir"), main
    while isinstance(group, click.Group) and words:
        found = group.get_command(context, words[0])
        assert found is not None, f"{page}: there is no `effir {words[0]}`"
        context, group, words = click.Context(found, parent=context), found, words[1:]  # type: ignore[assignment]
    known = {option for parameter in group.params for option in parameter.opts + parameter.secondary_opts}
    for word in words:
        assert not word.startswith("-") or word.partition("=")[0] in known, f"{page}: {command} has no {word}"


@pytest.mark.parametrize(("page", "command"), [pair for pair in commands() if "-S " in pair[1]])
def test_every_setting_that_a_page_shows_is_one(page: str, command: str) -> None:
    params = yaml.safe_load((HERE / "params.yaml").read_text(encoding="utf-8"))
    words = shlex.split(command)
    for before, word in pairwise(words):
        if before in ("-S", "--set-param"):
            section, _, key = word.lstrip("+").partition("=")[0].partition(".")
            assert key in params.get(section, {}), f"{page}: {command}: params.yaml has no {word}"
