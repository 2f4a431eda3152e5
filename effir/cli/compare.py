"""`effir compare`: compare variants."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from effir.cli.terminal import answer, console, json_option
from effir.errors import EffirError

if TYPE_CHECKING:
    from rich.table import Table

    from effir.evaluation.variant import Variant
    from effir.lab.comparison import Comparison
    from effir.lab.table import Row

LABEL, WIDEST = 20, 30  # least characters of the labels, most characters of a column
PIPED = 100  # characters a line if the output is not a terminal
UNKNOWN = {
    "exp": "there is no DVC experiment {}: `dvc exp list -A` lists them",
    "git": "there is no git revision {}: `git branch` and `git log` list them",
    "run": "there is no MLflow pipeline run {}: `mlflow ui` shows them",
    "": "{} is not a DVC experiment (`dvc exp list -A`), a git revision (`git log`) or an MLflow pipeline run: correct "
    "the name",
}


@click.command()
@click.argument("names", nargs=-1, metavar="[REV_OR_RUN]...")
@click.option("--seeds", "join", is_flag=True, help="Join runs that differ only in training.seed: mean and range.")
@json_option("object with the scores of all queries")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write one HTML file, with charts.")
def compare(names: tuple[str, ...], join: bool, as_json: bool, html: Path | None) -> None:
    """Compare variants: quality with intervals, paired tests, size, FLOPs, measured speed, and the baselines.

    REV_OR_RUN is `workspace` (the working tree), a DVC experiment, a branch, tag or commit, the name, id or first 8
    characters of an MLflow pipeline run, or models:/NAME@ALIAS or models:/NAME/NUMBER. If a name means several things,
    write exp:NAME, git:REV or run:ID. The first is the baseline. Default: the workspace and all experiments of the
    current commit.

    Example: effir compare workspace main models:/effir-retriever@champion --html compare.html
    """
    from effir.params import PARAMS

    if not PARAMS.exists():
        raise EffirError(f"{PARAMS} is missing: run this in the project's root")
    from effir.lab.baselines import advice
    from effir.lab.comparison import compare as compare_variants
    from effir.lab.comparison import over_seeds

    variants = [variant_named(name) for name in names] or _all_of_head()
    if join and (bare := [variant.name for variant in variants if not variant.params]):
        raise EffirError(f"the params of {bare[0]} were not kept: leave out --seeds, or this variant")
    compared = compare_variants(over_seeds(variants) if join else variants)
    advised = advice(compared)
    if as_json:
        answer({**asdict(compared), "advice": advised}, "", as_json)
    else:
        _print(compared, advised)
    if html is not None:
        from effir.lab.page import write_page

        write_page(compared, html, advised)
        click.echo(f"{html} is written: open it in a browser", err=True)


def variant_named(text: str) -> "Variant":
    """Read the variant with this name; EffirError if there is none, or several. MLflow is slow, so asked last."""
    from effir.lab.dvc_runs import commit_of, experiment_named, read_commit, read_experiment, read_workspace

    if text == "workspace":
        return read_workspace()
    if text.startswith("models:/"):
        from effir.tracking.run_metrics import read_run
        from effir.tracking.versions import run_of_model

        return read_run(run_of_model(text), text.removeprefix("models:/"))
    kind, _, name = text.partition(":")
    if kind not in ("exp", "git", "run"):
        kind, name = "", text
    experiment = experiment_named(name) if kind in ("", "exp") else None
    commit = commit_of(name) if kind in ("", "git") else None
    if experiment and commit and experiment.commit != commit:
        raise EffirError(f"{name!r} is a DVC experiment and a git revision: name one of exp:{name} or git:{name}")
    if experiment or commit:
        return read_experiment(experiment, text) if experiment else read_commit(str(commit), text)
    if kind in ("", "run") and (found := _run_named(name, text)):
        return found
    raise EffirError(UNKNOWN[kind].format(repr(name)))


def _run_named(name: str, shown: str) -> "Variant | None":
    from effir.tracking.run_metrics import find_runs, read_run

    runs = find_runs(name)
    if len(runs) > 1:
        listed = ", ".join(f"run:{run_id}" for run_id in runs)
        raise EffirError(f"{len(runs)} MLflow pipeline runs are called {name!r}: name one of {listed}")
    for run_id, run_name in runs.items():
        return read_run(run_id, shown if name == run_name else f"{run_name} ({run_id[:8]})")
    return None


def _all_of_head() -> "list[Variant]":
    """Read the workspace and the current commit's experiments; those without metrics are left out with a note."""
    from effir.lab.dvc_runs import experiments_of_head, read_experiment, read_workspace

    found = []
    for one in (None, *experiments_of_head()):
        try:
            found.append(read_experiment(one) if one else read_workspace())
        except EffirError as error:
            click.echo(f"left out: {error}", err=True)
    if not found:
        raise EffirError("there is nothing to compare: run `dvc repro`, or name a revision or run that has metrics")
    return found


def _print(compared: "Comparison", advised: Sequence[str]) -> None:
    from rich.text import Text

    from effir.lab.table import footnotes, heading, rows, sentences

    terminal = console(PIPED)
    lines, names = rows(compared), [variant.name for variant in compared.variants]
    # Names of params do not wrap well: the labels are at least as wide as their longest word.
    label = max([LABEL, *(len(word) for row in lines for word in row.label.split())])
    cells = [[name, *(row.cells[i] for row in lines)] for i, name in enumerate(names)]
    widths = [min(WIDEST, max(map(len, column))) + 1 for column in cells]  # with the gap after it
    for columns in _columns(widths, terminal.width - 2 - label):
        terminal.print(_table(names, lines, columns, label))
    found = [heading(compared), *(f"- {sentence}" for sentence in sentences(compared))] if compared.differences else []
    for sentence in [*found, *advised, *([""] if found or advised else []), *footnotes(compared)]:
        terminal.print(Text(sentence), soft_wrap=not terminal.is_terminal)


def _columns(widths: Sequence[int], room: int) -> list[list[int]]:
    """Split the columns into tables of at most ``room`` characters, the baseline first in each.

    >>> _columns([4, 4, 4, 5], 12), _columns([4, 4, 4], 8), _columns([4, 9], 5), _columns([4], 5)
    ([[0, 1, 2], [0, 3]], [[0, 1], [0, 2]], [[0, 1]], [[0]])
    """
    tables = [[0]]
    for i in range(1, len(widths)):
        if len(tables[-1]) > 1 and sum(widths[j] for j in [*tables[-1], i]) > room:
            tables.append([0])
        tables[-1].append(i)
    return tables


def _table(names: Sequence[str], lines: "Sequence[Row]", columns: Sequence[int], label: int) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column(width=label)
    for i in columns:
        table.add_column(Text(names[i]), overflow="fold", max_width=WIDEST)
    for row in lines:
        cells = [row.cells[i] for i in columns]
        if row.first and table.rows:
            table.add_row()
        if not row.param or len(set(cells)) > 1:
            styled = (Text(row.cells[i], style="bold green" if i in row.best else "") for i in columns)
            table.add_row(Text(row.label), *styled)
    return table
