"""`effir index`: an index of your own documents."""

import json
from pathlib import Path
from typing import Any

import click

BACKENDS, PRECISIONS = ["auto", "torch", "openvino"], ["auto", "float32", "bfloat16", "int8"]


@click.group()
def index() -> None:
    """Make an index of your own documents, add to it, delete from it."""


@index.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--model", default="models/retriever", show_default=True, help="A folder, or models:/NAME@ALIAS.")
@click.option("--factory", default="Flat", show_default=True, help="Flat, which is exact, or HNSW32.")
@click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True, help="What encodes.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def build(source: Path, folder: Path, model: str, factory: str, backend: Any, precision: Any, as_json: bool) -> None:
    """Index the documents of SOURCE in FOLDER.

    SOURCE is a folder in BEIR layout or of text files, JSON lines, or a CSV file; each document has a `text`, maybe a
    `title` and an `_id` or `id`. A build that was killed goes on when it is repeated. Additions and queries are encoded
    as it is: by default by OpenVINO where `effir export` put its graph into the model's folder, else by PyTorch.

    Example: effir index build docs/ my-index --model models:/effir-retriever@champion
    """
    from effir.serve.documents import create_index
    from effir.serve.open_model import model_of, open_model
    from effir.serve.texts import documents_of

    chosen = model_of(model, backend, precision)
    count = create_index(folder, documents_of(source), open_model(chosen).documents, chosen, factory)
    if as_json:
        click.echo(json.dumps({"folder": str(folder), "documents": count}))
    else:
        click.echo(f"{folder}: {count:,} documents; `effir search --index {folder} QUERY`, `effir serve {folder}`")


@index.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def add(source: Path, folder: Path, as_json: bool) -> None:
    """Add the documents of SOURCE to the index in FOLDER; one with an id that is there takes its place.

    Example: effir index add more.jsonl my-index
    """
    from effir.serve.documents import add_documents, read_manifest
    from effir.serve.open_model import open_model
    from effir.serve.texts import documents_of

    encoder = open_model(read_manifest(folder).model)
    count, replaced = add_documents(folder, documents_of(source), encoder.documents)
    if as_json:
        click.echo(json.dumps({"folder": str(folder), "added": count, "replaced": replaced}))
    else:
        click.echo(f"{folder}: {count:,} documents added, {replaced:,} of them in the place of older ones")


@index.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("ids", nargs=-1)
@click.option("--from", "listed", type=click.Path(path_type=Path), help="A file with an id a line.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def delete(folder: Path, ids: tuple[str, ...], listed: Path | None, as_json: bool) -> None:
    """Delete documents from the index in FOLDER by their IDS: all of them, or none where one is not there.

    Example: effir index delete my-index d12 guide.md#3
    """
    from effir.errors import EffirError
    from effir.serve.documents import delete_documents

    if listed is not None and not listed.is_file():
        raise EffirError(f"{listed} is missing: mend the path")
    lines = listed.read_text(encoding="utf-8").splitlines() if listed else []
    wanted = {*ids, *filter(None, map(str.strip, lines))}
    if not wanted:
        raise EffirError("no ids are given: name documents to delete, or a file of ids with --from")
    count = delete_documents(folder, wanted)
    click.echo(json.dumps({"folder": str(folder), "deleted": count}) if as_json else f"{folder}: {count:,} deleted")
