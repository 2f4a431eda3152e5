"""The `effir` command: what a person does between two pipelines."""

import json
from pathlib import Path

import click

from effir.errors import EffirError

PROFILES = Path("profiles")


class Refusal(click.ClickException):
    """One sentence, no traceback, exit status 2."""

    exit_code = 2


class Refusing(click.Group):
    """A group whose commands turn a mistake that a person can mend into a refusal."""

    def invoke(self, context: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(context)
        except EffirError as error:
            raise Refusal(str(error)) from None


@click.group(cls=Refusing)
@click.version_option(package_name="effir")
def main() -> None:
    """Turn a decoder-only language model into a small, fast dense retriever.

    The pipeline itself runs by DVC: `dvc repro`, `dvc exp run -S prune.width=0.6`.
    """


@main.command()
@click.argument("query")
@click.option("-k", "count", default=5, show_default=True, type=click.IntRange(min=1), help="How many documents.")
@click.option("--set", "name", help="Which of data.eval to search; the first by default.")
@click.option("--json", "as_json", is_flag=True, help="One JSON list, for programs.")
def search(query: str, count: int, name: str | None, as_json: bool) -> None:
    """Search the last index for QUERY.

    Example: effir search "smooth a noisy signal" -k 5
    """
    from effir.files import require
    from effir.params import load_params

    chosen = name or load_params().data.eval[0]
    index = require(Path("indexes") / chosen, made_by=f"index@{chosen}")
    retriever = require(Path("models/retriever"), made_by="finetune")

    from effir.retriever import encode_queries, open_retriever
    from effir.search import open_index

    hits = open_index(index).search(encode_queries(open_retriever(retriever), [query], 1), count)[0]
    if as_json:
        click.echo(json.dumps([{"id": hit.id, "title": hit.title, "score": hit.score} for hit in hits]))
    else:
        for hit in hits:
            click.echo(f"{hit.score:.3f}  {hit.title or hit.id}")


@main.command()
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


@main.command()
@click.option("--force", is_flag=True, help="Promote whatever the gate says; needs --reason.")
@click.option("--reason", help="Why it is forced; kept as a tag of the version.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def promote(force: bool, reason: str | None, as_json: bool) -> None:
    """Make the challenger the champion if it is no worse: register.max_drop, min_speedup and max_kept_share decide.

    A refusal names each reason and ends with status 1.

    Example: effir promote
    """
    from dataclasses import asdict

    from effir.params import load_params
    from effir.tracking.gate import Gate
    from effir.tracking.promotion import promote as promote_version

    if force != bool(reason):
        raise EffirError("--force and --reason go together: give both, or neither")
    register = load_params().register_
    gate = Gate(register.max_drop, register.min_speedup, register.max_kept_share)
    done = promote_version(register.name, register.alias, gate, reason)
    if as_json:
        click.echo(json.dumps(asdict(done)))
    elif done.promoted:
        before = "" if done.previous is None else f" in the place of version {done.previous}"
        click.echo(f"{register.name} version {done.version} is now its champion{before}")
    else:
        click.echo(f"{register.name} version {done.version} stays {register.alias}:")
        for sentence in done.reasons:
            click.echo(f"- {sentence}")
    if not done.promoted:
        raise click.exceptions.Exit(1)


@main.command()
def rollback() -> None:
    """Make the previous champion the champion again.

    Example: effir rollback
    """
    from effir.params import load_params
    from effir.tracking.promotion import rollback as roll_back

    name = load_params().register_.name
    done = roll_back(name)
    click.echo(f"{name} version {done.version} is its champion again, in the place of version {done.previous}")


@main.group()
def profile() -> None:
    """Overlays on params.yaml: the paper's settings, a quick look."""


@profile.command("list")
def list_profiles() -> None:
    """List the profiles by name.

    Example: effir profile list
    """
    for path in sorted(PROFILES.glob("*.yaml")):
        click.echo(path.stem)


@profile.command()
@click.argument("name")
def use(name: str) -> None:
    """Write profile NAME over params.yaml, whose comments stay; `git diff` shows what changed.

    Example: effir profile use mistral-7b
    """
    from effir.profiles import use_profile

    for key, old, new in use_profile(PROFILES, name):
        click.echo(f"{key}: {old} -> {new}")


if __name__ == "__main__":
    main()
