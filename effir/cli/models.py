"""`effir models`, `promote` and `rollback`: which version serves."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from effir.cli.terminal import answer, console, json_option
from effir.errors import EffirError

if TYPE_CHECKING:
    from effir.tracking.promotion import Promotion
    from effir.tracking.versions import ModelVersion

NDCG = "/ndcg_at_10"
COSTS = {"kept": ("cost/kept_share", "{:.1%}"), "speed-up": ("cost/document_speedup", "{:.2f}x")}
FIRST = ("prune.depth", "prune.width", "analyze.sublayer", "training.seed")  # of the params that differ
SHOWN = 4


@click.command()
@json_option("list")
def models(as_json: bool) -> None:
    """List the versions of the registered model: aliases, date, params that differ, nDCG@10, size and speed-up.

    Example: effir models
    """
    from effir.params import load_params
    from effir.tracking.versions import model_versions

    name = load_params().register_.name
    found = model_versions(name)
    if as_json:
        answer(found, "", as_json)
    elif found:
        _print(found)
    else:
        click.echo(f"no version of {name} is registered yet: run `dvc repro`", err=True)


def _print(versions: "Sequence[ModelVersion]") -> None:
    from rich import box
    from rich.table import Table

    terminal = console(piped=1000)  # a program or a file cuts no line
    sets = sorted({key.removesuffix(NDCG) for one in versions for key in one.metrics if key.endswith(NDCG)})
    numbers = {f"nDCG@10 {name}": (f"{name}{NDCG}", "{:.3f}") for name in sets} | COSTS
    table = Table(box=box.SIMPLE_HEAD if terminal.is_terminal else None, pad_edge=False)
    for heading in ("version", "aliases", "date", "variant", *numbers):
        table.add_column(heading, justify="right" if heading in numbers else "left")
    for one, variant in zip(versions, _variants(versions), strict=True):
        date = datetime.fromtimestamp(one.created / 1000).strftime("%Y-%m-%d %H:%M")
        cells = (form.format(one.metrics[key]) if key in one.metrics else "-" for key, form in numbers.values())
        table.add_row(str(one.version), ", ".join(one.aliases) or "-", date, variant, *cells)
    terminal.print(table)


def _variants(versions: "Sequence[ModelVersion]") -> list[str]:
    """Describe each version by the params in which they differ: ``depth 10, width 0.6``; else by its variant tag."""
    known = [one.params for one in versions if one.params]
    keys = {key for params in known for key in params if not key.startswith("register.")}
    differ = sorted(key for key in keys if len({params.get(key) for params in known}) > 1)
    differ.sort(key=lambda key: FIRST.index(key) if key in FIRST else len(FIRST))
    more = ", …" if len(differ) > SHOWN else ""

    def described(one: "ModelVersion") -> str:
        values = (f"{key.rpartition('.')[2]} {one.params.get(key, '-')}" for key in differ[:SHOWN])
        return ", ".join(values) + more if differ and one.params else one.tags.get("variant", "-")

    return [described(one) for one in versions]


def _change(change: "Callable[[], Promotion]", text: "Callable[[Promotion], str]", as_json: bool) -> None:
    """Change the champion and print the outcome; a model that is not registered needs a run of the pipeline."""
    from effir.tracking.versions import UnregisteredError

    try:
        done = change()
    except UnregisteredError as error:
        raise EffirError(f"{error.what}: run `dvc repro`, or correct register.name in params.yaml") from None
    answer(done, text(done), as_json)
    if not done.promoted:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("version", required=False)
@click.option("--force", is_flag=True, help="Promote it against the rules; needs --reason.")
@click.option("--reason", help="Why it is forced; kept as a tag of the version.")
@click.option("--seeds", is_flag=True, help="Compare means over the versions that differ only in training.seed.")
@json_option()
def promote(version: str | None, force: bool, reason: str | None, seeds: bool, as_json: bool) -> None:
    """Make VERSION the champion if it is no worse: register.max_drop, min_speedup and max_kept_share decide.

    The test queries must show that it loses less than register.max_drop; a refusal says how many it would take. VERSION
    is a number or an alias; without one it is the challenger. A refusal names each reason and ends with status 1; so
    does a promotion that someone else's overtook.

    Example: effir promote 3
    """
    from effir.params import load_params
    from effir.tracking.promotion import PromotionRules
    from effir.tracking.promotion import promote as promote_version

    if force != bool(reason):
        raise EffirError("--force and --reason go together: give both, or neither")
    register = load_params().register_
    rules = PromotionRules(register.max_drop, register.min_speedup, register.max_kept_share)
    stays = "is not promoted" if version else f"stays {register.alias}"

    def said(done: "Promotion") -> str:
        before = "" if done.previous is None else f" in the place of version {done.previous}"
        outcome = f"is now its champion{before}" if done.promoted else f"{stays}:"
        lines = "\n- ".join([f"{register.name} version {done.version} {outcome}", *done.reasons])
        return "\n".join([lines, *(f"({note})" for note in done.notes)])

    which = version or register.alias
    _change(lambda: promote_version(register.name, which, rules, reason, seeds=seeds), said, as_json)


@click.command()
@json_option()
def rollback(as_json: bool) -> None:
    """Make the previous champion the champion again; status 1 if someone else's change overtook it.

    Example: effir rollback
    """
    from effir.params import load_params
    from effir.tracking.promotion import rollback as roll_back

    name = load_params().register_.name

    def said(done: "Promotion") -> str:
        if not done.promoted:
            return f"{name} is not rolled back: {done.reasons[0]}"
        return f"{name} version {done.version} is its champion again, in the place of version {done.previous}"

    _change(lambda: roll_back(name), said, as_json)
