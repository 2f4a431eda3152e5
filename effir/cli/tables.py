"""What `effir train` and `effir data` share: how a table of questions and answers is read."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from effir.cli.terminal import PATH, options
from effir.errors import EffirError

if TYPE_CHECKING:
    from effir.data.pairs import Pair

FORM: Mapping[str, str] = {"query": "query", "document": "document", "title": "title", "delimiter": ","}
"""How a CSV file is read: the options of ``column_options`` and their defaults."""
_HELP = {
    "query": "Column of the questions.",
    "document": "Column of the answers.",
    "title": "Column of the answers' titles, if any.",
    "delimiter": "What separates columns; `tab` for a tab.",
}
column_options = options(
    *(click.option(f"--{key}", default=value, show_default=True, help=_HELP[key]) for key, value in FORM.items())
)
collection_options = options(
    click.option("--documents", type=PATH, help="CSV of more documents to search, without questions."),
    click.option(
        "--test-share",
        type=click.FloatRange(0, 1),
        default=0.1,
        show_default=True,
        help="Share of the questions that is held out for evaluation. The others are for training.",
    ),
)


def is_objects(path: Path) -> bool:
    """Return whether a file holds JSON lines or a JSON array, by its ending."""
    return path.suffix.lower() in (".jsonl", ".json")


def read_objects(path: Path, form: Mapping[str, str]) -> "Iterable[Pair]":
    """Read JSON lines or a JSON array of questions and answers; the answers' key is ``positive`` unless it is named."""
    from effir.data.pairs import PAIR_KEYS, Columns, pairs_of_lines

    document = PAIR_KEYS.document if form["document"] == FORM["document"] else form["document"]
    return pairs_of_lines(path, Columns(form["query"], document, form["title"]))


def read_rows(path: Path, form: Mapping[str, str], asked: bool = True) -> "Iterable[Pair]":
    """Read a table of questions and answers, or of documents alone if they are not ``asked`` for."""
    from effir.data.pairs import Columns, pairs_of_table

    is_tabbed = path.suffix.lower() == ".tsv" and form["delimiter"] == FORM["delimiter"]
    between = "\t" if is_tabbed or form["delimiter"] in ("tab", "\\t") else form["delimiter"]
    if len(between) != 1:
        raise EffirError(f"--delimiter is {between!r}: give one character, or `tab`")
    return pairs_of_table(path, Columns(form["query"], form["document"], form["title"]), between, asked=asked)


def read_documents(path: Path | None, form: Mapping[str, str]) -> "Iterable[Pair]":
    """Read a CSV file of documents without questions; nothing where there is no file."""
    return read_rows(path, form, asked=False) if path else ()
