"""`effir profile`: overlays on params.yaml."""

import shlex
from pathlib import Path

import click

from effir.cli.terminal import answer, json_option

PROFILES = Path("profiles")
chosen = click.argument("names", nargs=-1, required=True, metavar="NAME...")


@click.group()
def profile() -> None:
    """Write a set of settings over params.yaml: the paper's, BEIR's sets, a quick look.

    `git checkout params.yaml` goes back to the default.

    Example: effir profile use mistral-7b
    """


@profile.command("list")
@json_option("object, name to purpose")
def list_profiles(as_json: bool) -> None:
    """List the profiles and what each is for.

    Example: effir profile list
    """
    from effir.cli.profiles import profile_purposes

    purposes = profile_purposes(PROFILES)
    answer(purposes, "\n".join(f"{name:<12}{purpose}" for name, purpose in purposes.items()), as_json)


@profile.command()
@chosen
@json_option("list of [key, old, new]")
def show(names: tuple[str, ...], as_json: bool) -> None:
    """Show what profile NAME would change in params.yaml. Nothing is written.

    Example: effir profile show mistral-7b
    """
    from effir.cli.profiles import use_profiles

    _tell(use_profiles(PROFILES, names, dry_run=True), "", as_json)


@profile.command()
@chosen
@json_option("list of [key, old, new]")
def use(names: tuple[str, ...], as_json: bool) -> None:
    """Write profile NAME over params.yaml and keep its comments. `git diff` shows the changes.

    Keys that the profile does not name keep their values. Several profiles are written in the given order. To go back
    to the default, run `git checkout params.yaml`.

    Example: effir profile use mistral-7b
    """
    from effir.cli.profiles import use_profiles

    _tell(use_profiles(PROFILES, names), "\nto go back: git checkout params.yaml", as_json)


@profile.command()
@chosen
@json_option("list of KEY=VALUE")
def options(names: tuple[str, ...], as_json: bool) -> None:
    """Print profile NAME as options of `dvc exp run`, to try it without a change of params.yaml.

    They are quoted for a shell: eval dvc exp run --temp "$(effir profile options smoke)"

    Example: effir profile options smoke
    """
    from effir.cli.profiles import profile_options

    found = profile_options(PROFILES, names)
    answer(found, " ".join(f"-S {shlex.quote(each)}" for each in found), as_json)


def _tell(changes: list[tuple[str, object, object]], after: str, as_json: bool) -> None:
    lines = "\n".join(f"{key}: {old} -> {new}" for key, old, new in changes)
    answer(changes, f"{lines}{after}" if changes else "params.yaml has all of these settings already", as_json)
