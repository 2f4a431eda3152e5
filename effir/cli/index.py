"""`effir index`: an index of your own documents."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effir.cli.terminal import PATH, answer, json_option, options
from effir.errors import EffirError
from effir.files import require

if TYPE_CHECKING:
    from effir.encoding.text_reader import TextReader
    from effir.serve.texts import Columns, Survey

column_options = options(
    click.option("--text", default="text", show_default=True, help="Column, or key, of the texts."),
    click.option("--title", help="Column of the titles. The default is `title`, if there is one."),
    click.option("--id", help="Column of the ids. The default is `_id` or `id`, else a hash of the text."),
    click.option("--delimiter", default="", help="What separates a table's columns; `tab` for a tab."),
)
BACKENDS, PRECISIONS = ["auto", "torch", "openvino"], ["auto", "float32", "bfloat16", "int8"]


@click.group()
def index() -> None:
    """Make an index of your own documents, add documents, delete documents."""


@index.command()
@click.argument("source", type=PATH)
@click.argument("folder", type=PATH)
@click.option("--model", default="models/retriever", show_default=True, help="A folder, or models:/NAME@ALIAS.")
@click.option("--factory", default="Flat", show_default=True, help="Flat, which is exact, or HNSW32.")
@click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True, help="The runtime.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True)
@column_options
@json_option()
def build(
    source: Path, folder: Path, model: str, factory: str, backend: Any, precision: Any, as_json: bool, **form: Any
) -> None:
    """Index the documents of SOURCE in FOLDER.

    SOURCE is a folder in BEIR layout; a folder of text files (.txt, .md, .rst, .html) or one of them, which are cut
    into passages; a JSON array, JSON lines, or a CSV or TSV table with a `text` and optionally a `title` and an `_id`
    or `id`. What is skipped, and how many documents are longer than the model reads, is said before the work. Repeat
    the command to continue a build that was killed. The index remembers the model, --backend and --precision for
    additions and queries. By default OpenVINO encodes if `effir export` wrote its graph into the model's folder, else
    PyTorch.

    Example: effir index build docs/ my-index --model models:/effir-retriever@champion
    """
    from effir.serve.documents import DocumentStore, create_index
    from effir.serve.open_model import model_of, open_model
    from effir.serve.texts import documents_of

    chosen, columns = model_of(model, backend, precision), _columns(**form)
    encoder = open_model(chosen)
    found = _surveyed(source, encoder.reader, columns)
    documents = documents_of(source, encoder.reader, columns)
    count = create_index(folder, documents, encoder.documents, chosen, factory, found.documents)
    recall = 1.0 if factory == "Flat" else DocumentStore(folder).recall
    measured = "" if factory == "Flat" else f" (recall@10 {recall:.3f})"
    said = f"{folder}: {count:,} documents{measured}; `effir search --index {folder} QUERY`, `effir serve {folder}`"
    about = f"\n{model}: {encoder.about}" if encoder.about else ""
    made = {"folder": str(folder), "documents": count, "cut": found.cut, "recall_at_10": recall}
    answer({**made, "encoding": encoder.about}, said + about, as_json)


@index.command()
@click.argument("source", type=PATH)
@click.argument("folder", type=PATH)
@column_options
@json_option()
def add(source: Path, folder: Path, as_json: bool, **form: Any) -> None:
    """Add the documents of SOURCE to the index in FOLDER; a document replaces the one with its id.

    Example: effir index add more.jsonl my-index
    """
    from effir.serve.documents import add_documents, read_manifest
    from effir.serve.open_model import open_model
    from effir.serve.texts import documents_of

    encoder, columns = open_model(read_manifest(folder).model), _columns(**form)
    found = _surveyed(source, encoder.reader, columns)
    documents = documents_of(source, encoder.reader, columns)
    count, replaced = add_documents(folder, documents, encoder.documents, found.documents)
    said = f"{folder}: {count:,} documents added; {replaced:,} of them replaced older ones"
    answer({"folder": str(folder), "added": count, "replaced": replaced, "cut": found.cut}, said, as_json)


def _columns(text: str, title: str | None, id: str | None, delimiter: str) -> "Columns":
    from effir.serve.texts import Columns

    between = "\t" if delimiter in ("tab", "\\t") else delimiter
    if len(between) > 1:
        raise EffirError(f"--delimiter is {delimiter!r}: give one character, or `tab`")
    return Columns(text, title, id, between)


def _surveyed(source: Path, reader: "TextReader", columns: "Columns") -> "Survey":
    """Read all documents once and say, on stderr, what is skipped and what the model does not read."""
    from effir.serve.texts import describe, documents_of, survey

    found = survey(documents_of(source, reader, columns), reader)
    for line in describe(source, columns):
        click.echo(line, err=True)
    if found.cut:
        said = f"{found.cut:,} of {found.documents:,} documents are longer than the {reader.max_tokens} tokens that the"
        fix = "only their beginnings are searched; split them, or use a model with a higher retriever.max_tokens"
        click.echo(f"{said} model reads, e.g. {found.example!r}: {fix}", err=True)
    return found


@index.command()
@click.argument("folder", type=PATH)
@click.argument("ids", nargs=-1)
@click.option("--from", "listed", type=PATH, help="A file with one id a line.")
@json_option()
def delete(folder: Path, ids: tuple[str, ...], listed: Path | None, as_json: bool) -> None:
    """Delete documents from the index in FOLDER by their IDS. If an id is missing, nothing is deleted.

    Example: effir index delete my-index d12 guide.md#3
    """
    from effir.serve.documents import delete_documents

    lines = require(listed).read_text(encoding="utf-8-sig").splitlines() if listed else []
    wanted = {*ids, *filter(None, map(str.strip, lines))}
    if not wanted:
        raise EffirError("no ids are given: name the documents to delete, or a file of ids with --from")
    count = delete_documents(folder, wanted)
    answer({"folder": str(folder), "deleted": count}, f"{folder}: {count:,} deleted", as_json)
