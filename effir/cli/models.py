"""`effir models`, `promote` and `rollback`: which version serves."""

import json

import click

from effir.errors import EffirError


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON list, for programs.")
def models(as_json: bool) -> None:
    """List the versions of the registered model: aliases, nDCG@10 by set, size and speed-up.

    Example: effir models
    """
    from dataclasses import asdict

    from effir.params import load_params
    from effir.tracking.promotion import model_versions

    found = model_versions(load_params().register_.name)
    if as_json:
        click.echo(json.dumps([asdict(version) for version in found]))
        return
    for version in found:
        figures = [
            f"{key} {value:.3f}" for key, value in sorted(version.metrics.items()) if key.endswith("/ndcg_at_10")
        ]
        cost = [
            f"{label} {version.metrics[key]:.2f}"
            for label, key in (("kept", "cost/kept_share"), ("speed-up", "cost/document_speedup"))
            if key in version.metrics
        ]
        name = f"{version.version}  {version.tags.get('variant', '')}  {', '.join(version.aliases) or '-'}"
        click.echo("  ".join([name, *figures, *cost]))


@click.command()
@click.argument("version", required=False)
@click.option("--force", is_flag=True, help="Promote whatever the gate says; needs --reason.")
@click.option("--reason", help="Why it is forced; kept as a tag of the version.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def promote(version: str | None, force: bool, reason: str | None, as_json: bool) -> None:
    """Make VERSION the champion if it is no worse: register.max_drop, min_speedup and max_kept_share decide.

    VERSION is a number or an alias; without one it is the challenger. A refusal names each reason and ends with status
    1; so does the later one of two promotions at once.

    Example: effir promote 3
    """
    from dataclasses import asdict

    from effir.params import load_params
    from effir.tracking.gate import Gate
    from effir.tracking.promotion import promote as promote_version

    if force != bool(reason):
        raise EffirError("--force and --reason go together: give both, or neither")
    register = load_params().register_
    gate = Gate(register.max_drop, register.min_speedup, register.max_kept_share)
    done = promote_version(register.name, version or register.alias, gate, reason)
    if as_json:
        click.echo(json.dumps(asdict(done)))
    elif done.promoted:
        before = "" if done.previous is None else f" in the place of version {done.previous}"
        click.echo(f"{register.name} version {done.version} is now its champion{before}")
    else:
        stays = "is not promoted" if version else f"stays {register.alias}"
        click.echo(f"{register.name} version {done.version} {stays}:")
        for sentence in done.reasons:
            click.echo(f"- {sentence}")
    if not done.promoted:
        raise click.exceptions.Exit(1)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def rollback(as_json: bool) -> None:
    """Make the previous champion the champion again; status 1 where another one was quicker.

    Example: effir rollback
    """
    from dataclasses import asdict

    from effir.params import load_params
    from effir.tracking.promotion import rollback as roll_back

    name = load_params().register_.name
    done = roll_back(name)
    if as_json:
        click.echo(json.dumps(asdict(done)))
    elif done.promoted:
        click.echo(f"{name} version {done.version} is its champion again, in the place of version {done.previous}")
    else:
        click.echo(f"{name} is not rolled back: {done.reasons[0]}")
    if not done.promoted:
        raise click.exceptions.Exit(1)
