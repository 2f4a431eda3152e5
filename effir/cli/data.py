"""`effir data`: a collection of your own."""

import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from effir.cli.tables import collection_options, column_options, read_documents, read_objects, read_rows
from effir.cli.terminal import PATH, answer, json_option, options
from effir.errors import EffirError

if TYPE_CHECKING:
    from effir.data.checking import Report
    from effir.data.pairs import Pair

RETRIEVER = Path("models/retriever")
making = options(
    click.argument("path", type=PATH), click.argument("into", type=PATH), collection_options, json_option()
)


@click.group()
def data() -> None:
    """Make a collection of your own, or check one."""


@data.command()
@click.argument("folder", type=PATH)
@click.option("--model", type=PATH, help="The retriever that will read it. The default is models/retriever, if there.")
@json_option()
def check(folder: Path, model: Path | None, as_json: bool) -> None:
    """List everything that is wrong with the collection in FOLDER (BEIR layout), and how to fix it.

    The exit status is 1 if there is an error: the pipeline would stop, or its metrics would be wrong.

    Example: effir data check /data/docs
    """
    from effir.data.checking import check_collection

    report = check_collection(folder)
    if not report.errors and (retriever := model or (RETRIEVER if RETRIEVER.is_dir() else None)):
        _count_cut(folder, retriever, report)
    findings = [{**asdict(each), "kind": each.kind, "cure": each.cure} for each in report.findings]
    answer({**asdict(report), "findings": findings, "notes": report.notes}, _checked(report), as_json)
    if report.errors:
        raise click.exceptions.Exit(1)


def _count_cut(folder: Path, retriever: Path, report: "Report") -> None:
    """Note the documents that are longer than a retriever reads."""
    from effir.data.beir import CORPUS, Collection
    from effir.data.checking import Finding
    from effir.encoding.text_reader import TextReader
    from effir.serve.texts import survey

    found = survey(Collection(folder).documents(), TextReader.open(retriever))
    if found.cut:
        report.findings.append(Finding(CORPUS, "longer than the model reads", repr(found.example), found.cut))


def _checked(report: "Report") -> str:
    judged, errors = _counts(report.judged), len(report.errors)
    return "\n".join(
        [
            *map(str, sorted(report.findings, key=lambda each: each.kind)),
            *(f"note: {note}" for note in report.notes),
            f"{report.documents:,} documents, {report.queries:,} queries, with relevance judgements {judged}: "
            f"{errors} errors, {len(report.findings) - errors} warnings",
        ]
    )


def _counts(splits: dict[str, int]) -> str:
    return ", ".join(f"{count:,} in {split}" for split, count in splits.items())


@data.command("from-csv")
@making
@column_options
def from_csv(path: Path, into: Path, documents: Path | None, test_share: float, as_json: bool, **form: str) -> None:
    """Make the collection INTO (BEIR layout) of the CSV table PATH: a question and its answer in each row.

    Example: effir data from-csv tickets.csv data/tickets --query question --document answer
    """
    _make(read_rows(path, form), read_documents(documents, form), into, test_share, as_json)


@data.command("from-pairs")
@making
@column_options
def from_pairs(path: Path, into: Path, documents: Path | None, test_share: float, as_json: bool, **form: str) -> None:
    """Make the collection INTO (BEIR layout) of PATH: JSON of `query` and `positive`, a text or a list.

    PATH holds JSON lines or one JSON array. --query, --document and --title name other keys.

    Example: effir data from-pairs pairs.jsonl data/tickets
    """
    _make(read_objects(path, form), read_documents(documents, form), into, test_share, as_json)


def _make(pairs: "Iterable[Pair]", others: "Iterable[Pair]", into: Path, test_share: float, as_json: bool) -> None:
    from effir.data.pairs import collection_of
    from effir.sections import NAME

    if not re.match(NAME, into.name):  # DVC breaks on a set's name with an @
        raise EffirError(f"{into.name!r} cannot name a set: use letters, digits, dots, _ and - in the folder's name")
    if into.exists():
        raise EffirError(f"{into} exists already: remove it, or name another folder")
    collection = collection_of(pairs, others, into, test_share)
    documents = sum(1 for _ in collection.documents())
    queries = {split: len(collection.queries(split)) for split in collection.splits}
    said = (
        f"{into}: {documents:,} documents, queries {_counts(queries)}\nto evaluate on it: dvc exp run "
        f"-S 'data.eval=[{into.name}]' -S '++data.collections={{{into.name}: {into}}}'"
    )
    answer({"folder": str(into), "documents": documents, "queries": queries}, said, as_json)
