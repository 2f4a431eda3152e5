"""`effir compare`: variants side by side."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from effir.errors import EffirError

if TYPE_CHECKING:
    from rich.table import Table

    from effir.evaluation.variant import Variant
    from effir.lab.comparison import Comparison
    from effir.lab.table import Row

LABEL, WIDEST = 20, 30  # characters that labels get at least, and a column at most
PIPED = 100  # characters a line, where nobody's terminal says


@click.command()
@click.argument("names", nargs=-1, metavar="[REV_OR_RUN]...")
@click.option("--seeds", "join", is_flag=True, help="Join runs that differ in training.seed alone: means and spread.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, every query's score included, for programs.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write one HTML file, with charts.")
def compare(names: tuple[str, ...], join: bool, as_json: bool, html: Path | None) -> None:
    """Put variants side by side: quality with bounds, paired significance, size, FLOPs, measured speed.

    REV_OR_RUN is `workspace` (the working tree), a DVC experiment, a branch, tag or commit, the name, id or first 8
    characters of an MLflow pipeline run, or models:/NAME@ALIAS or models:/NAME/NUMBER. Where one name means several,
    write exp:NAME, git:REV or run:ID. The first is the baseline. Without any, the workspace and all experiments of the
    current commit.

    Example: effir compare workspace main models:/effir-retriever@champion --html compare.html
    """
    from effir.params import PARAMS

    if not PARAMS.exists():
        raise EffirError(f"{PARAMS} is missing: run this in the project's root")
    from dataclasses import asdict

    from effir.lab.comparison import compare as compare_variants

    variants = [variant_named(name) for name in names] or _all_of_head()
    compared = compare_variants(_joined(variants) if join else variants)
    if as_json:
        click.echo(json.dumps(asdict(compared), ensure_ascii=False))
    else:
        _print(compared)
    if html is not None:
        from effir.lab.page import write_page

        write_page(compared, html)
        click.echo(f"{html} is written: open it in a browser", err=True)


def variant_named(text: str) -> "Variant":
    """Find what ``text`` means; EffirError where that is nothing, or several things.

    MLflow is asked only about what git does not know, because opening it takes seconds.
    """
    from effir.lab.dvc_runs import commit_of, experiment_named, read_commit, read_experiment, read_workspace

    if text == "workspace":
        return read_workspace()
    if text.startswith("models:/"):
        from effir.tracking.figures import read_run, run_of_model

        return read_run(run_of_model(text), text.removeprefix("models:/"))
    kind, _, name = text.partition(":")
    if kind not in ("exp", "git", "run"):
        kind, name = "", text
    experiment = experiment_named(name) if kind in ("", "exp") else None
    commit = commit_of(name) if kind in ("", "git") else None
    if experiment and commit and experiment.commit != commit:
        raise EffirError(f"{name!r} is a DVC experiment and a git revision: name one of exp:{name} or git:{name}")
    if experiment:
        return read_experiment(experiment, text)
    if commit:
        return read_commit(commit, text)
    found = _run_named(name, text) if kind in ("", "run") else None
    if found is None:
        raise EffirError(_nowhere(kind, name))
    return found


def _run_named(name: str, shown: str) -> "Variant | None":
    from effir.tracking.figures import find_runs, read_run

    runs = find_runs(name)
    if len(runs) > 1:
        listed = ", ".join(f"run:{run_id}" for run_id in runs)
        raise EffirError(f"{len(runs)} MLflow pipeline runs are called {name!r}: name one of {listed}")
    for run_id, run_name in runs.items():
        return read_run(run_id, shown if name == run_name else f"{run_name} ({run_id[:8]})")
    return None


def _nowhere(kind: str, name: str) -> str:
    return {
        "exp": f"there is no DVC experiment {name!r}: `dvc exp list -A` lists them",
        "git": f"there is no git revision {name!r}: `git branch` and `git log` list them",
        "run": f"there is no MLflow pipeline run {name!r}: `mlflow ui` shows them",
    }.get(
        kind,
        f"{name!r} was looked for among DVC experiments (`dvc exp list -A`), git revisions (`git log`) and MLflow "
        "pipeline runs, and is none of them: mend the name",
    )


def _joined(variants: "Sequence[Variant]") -> "list[Variant]":
    from effir.lab.seeds import over_seeds

    for variant in variants:
        if not variant.params:
            raise EffirError(f"the params of {variant.name} were not kept: leave it or --seeds out")
    return over_seeds(variants)


def _all_of_head() -> "list[Variant]":
    """Read the workspace and the current commit's experiments, as far as they have figures."""
    from effir.lab.dvc_runs import experiments_of_head, read_experiment, read_workspace

    found = []
    for read in (read_workspace, *(lambda one=one: read_experiment(one) for one in experiments_of_head())):
        try:
            found.append(read())
        except EffirError as error:
            click.echo(f"left out: {error}", err=True)
    if not found:
        raise EffirError("there is nothing to compare: run `dvc repro`, or name a revision or run that has figures")
    return found


def _print(compared: "Comparison") -> None:
    from rich.console import Console
    from rich.text import Text

    from effir.lab.table import footnotes, heading, rows, sentences

    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console.width = PIPED
    lines, names = rows(compared), [variant.name for variant in compared.variants]
    for columns in _columns(_widths(lines, names), console.width - 2 - _label(lines)):
        console.print(_table(names, lines, columns))
    verdicts = [heading(compared), *(f"- {sentence}" for sentence in sentences(compared)), ""]
    for sentence in [*(verdicts if compared.differences else []), *footnotes(compared)]:
        console.print(Text(sentence), soft_wrap=not console.is_terminal)


def _label(lines: "Sequence[Row]") -> int:
    """Characters for the labels: their longest word, because names of params do not break well."""
    return max([LABEL, *(len(word) for row in lines for word in row.label.split())])


def _widths(lines: "Sequence[Row]", names: Sequence[str]) -> list[int]:
    """Characters that each variant's column takes, the gap after it included."""
    cells = [[name, *(row.cells[i] for row in lines)] for i, name in enumerate(names)]
    return [min(WIDEST, max(map(len, column))) + 1 for column in cells]


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


def _table(names: Sequence[str], lines: "Sequence[Row]", columns: Sequence[int]) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column(width=_label(lines))
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
