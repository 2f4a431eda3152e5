"""`effir data`: your own collection."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from effir.data.pairs import Pair

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def data() -> None:
    """Check a collection of your own, or make one."""


@data.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def check(folder: Path, as_json: bool) -> None:
    """Say all that is wrong with the collection in FOLDER (BEIR layout), and what to do about it.

    The status is 1 where something must be mended: the pipeline would stop, or judge wrongly.

    Example: effir data check /data/docs
    """
    from dataclasses import asdict

    from effir.data.checking import check_collection

    report = check_collection(folder)
    if as_json:
        findings = [{**asdict(each), "kind": each.kind, "cure": each.cure} for each in report.findings]
        click.echo(json.dumps({**asdict(report), "findings": findings}))
    else:
        for finding in sorted(report.findings, key=lambda each: each.kind):
            click.echo(str(finding))
        asked = ", ".join(f"{count:,} in {split}" for split, count in report.judged.items())
        errors, warnings = len(report.errors), len(report.findings) - len(report.errors)
        click.echo(
            f"{report.documents:,} documents, {report.queries:,} queries, judged {asked}: "
            f"{errors} to mend, {warnings} to look at"
        )
    if report.errors:
        raise click.exceptions.Exit(1)


def making(command: F) -> F:
    """Give a command what both makers of collections share."""
    for option in (
        click.option("--documents", type=click.Path(path_type=Path), help="CSV of more documents to search, unasked."),
        click.option(
            "--test-share",
            type=click.FloatRange(0, 1),
            default=0.1,
            show_default=True,
            help="Share of the queries to judge by; the others are to train on.",
        ),
        click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs."),
        click.argument("into", type=click.Path(path_type=Path)),
        click.argument("path", type=click.Path(path_type=Path)),
    ):
        command = option(command)
    return command


@data.command("from-csv")
@making
@click.option("--query", default="query", show_default=True, help="Column of the queries.")
@click.option("--document", default="document", show_default=True, help="Column of the documents that answer them.")
@click.option("--title", default="title", show_default=True, help="Column of their titles, if there is one.")
@click.option("--delimiter", default=",", show_default=True, help="What separates columns; `tab` for a tab.")
def from_csv(
    path: Path,
    into: Path,
    documents: Path | None,
    test_share: float,
    as_json: bool,
    query: str,
    document: str,
    title: str,
    delimiter: str,
) -> None:
    """Make the collection INTO (BEIR layout) of the table PATH: a query and a document that answers it, a row.

    Example: effir data from-csv tickets.csv data/tickets --query question --document answer
    """
    from effir.data.pairs import Columns, pairs_of_table
    from effir.errors import EffirError

    columns, between = Columns(query, document, title), "\t" if delimiter in ("tab", "\\t") else delimiter
    if len(between) != 1:
        raise EffirError(f"--delimiter is {delimiter!r}: give one character, or `tab`")
    others = pairs_of_table(documents, columns, between, asked=False) if documents else ()
    _make(pairs_of_table(path, columns, between), others, into, test_share, as_json)


@data.command("from-pairs")
@making
def from_pairs(path: Path, into: Path, documents: Path | None, test_share: float, as_json: bool) -> None:
    """Make the collection INTO (BEIR layout) of PATH, JSON lines of `query` and `positive`, a text or a list.

    Example: effir data from-pairs pairs.jsonl data/tickets
    """
    from effir.data.pairs import Columns, pairs_of_lines, pairs_of_table

    others = pairs_of_table(documents, Columns(), ",", asked=False) if documents else ()
    _make(pairs_of_lines(path), others, into, test_share, as_json)


def _make(pairs: "Iterable[Pair]", others: "Iterable[Pair]", into: Path, test_share: float, as_json: bool) -> None:
    from effir.data.pairs import collection_of
    from effir.errors import EffirError

    if into.exists():
        raise EffirError(f"{into} is there already: remove it, or name another folder")
    collection = collection_of(pairs, others, into, test_share)
    documents = sum(1 for _ in collection.documents())
    queries = {split: len(collection.queries(split)) for split in collection.splits}
    if as_json:
        click.echo(json.dumps({"folder": str(into), "documents": documents, "queries": queries}))
        return
    asked = ", ".join(f"{count:,} in {split}" for split, count in queries.items())
    known = f"-S '++data.collections={{{into.name}: {into}}}'"
    click.echo(f"{into}: {documents:,} documents, queries {asked}")
    click.echo(f"to evaluate on it: dvc exp run -S 'data.eval=[{into.name}]' {known}")
