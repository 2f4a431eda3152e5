"""`effir profile`: overlays on params.yaml."""

import json
from pathlib import Path

import click

PROFILES = Path("profiles")


@click.group()
def profile() -> None:
    """Overlays on params.yaml: a quick look, the default, BEIR, the paper's settings.

    Example: effir profile use smoke
    """


@profile.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, name to purpose, for programs.")
def list_profiles(as_json: bool) -> None:
    """List the profiles and what each is for.

    Example: effir profile list
    """
    from effir.cli.profiles import profile_purposes

    purposes = profile_purposes(PROFILES)
    if as_json:
        click.echo(json.dumps(purposes))
        return
    for name, purpose in purposes.items():
        click.echo(f"{name:<12}{purpose}")


@profile.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--json", "as_json", is_flag=True, help="One JSON list of [key, old, new], for programs.")
def show(names: tuple[str, ...], as_json: bool) -> None:
    """Show what profile NAME would change in params.yaml, and change nothing.

    Example: effir profile show mistral-7b
    """
    from effir.cli.profiles import profile_changes

    _tell(profile_changes(PROFILES, names), as_json)


@profile.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--json", "as_json", is_flag=True, help="One JSON list of [key, old, new], for programs.")
def use(names: tuple[str, ...], as_json: bool) -> None:
    """Write profile NAME over params.yaml, whose comments stay; `git diff` shows what changed.

    What the profile does not name stays as it is; several are written in their order, so start from `default` for a
    clean slate.

    Example: effir profile use default mistral-7b
    """
    from effir.cli.profiles import use_profiles

    _tell(use_profiles(PROFILES, names), as_json)


def _tell(changes: list[tuple[str, object, object]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(changes))
        return
    for key, old, new in changes:
        click.echo(f"{key}: {old} -> {new}")
    if not changes:
        click.echo("params.yaml says all of it already")
