"""`effir index`: an index of your own documents."""

from pathlib import Path
from typing import Any

import click

from effir.cli.terminal import PATH, answer, json_option
from effir.errors import EffirError
from effir.files import require

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
@json_option()
def build(source: Path, folder: Path, model: str, factory: str, backend: Any, precision: Any, as_json: bool) -> None:
    """Index the documents of SOURCE in FOLDER.

    SOURCE is a folder in BEIR layout or of text files, a JSON lines file, or a CSV file. Each document has a `text` and
    optionally a `title` and an `_id` or `id`. Repeat the command to continue a build that was killed. The index
    remembers the model, --backend and --precision for additions and queries. By default OpenVINO encodes if `effir
    export` wrote its graph into the model's folder, else PyTorch.

    Example: effir index build docs/ my-index --model models:/effir-retriever@champion
    """
    from effir.serve.documents import create_index
    from effir.serve.open_model import model_of, open_model
    from effir.serve.texts import documents_of

    chosen, total = model_of(model, backend, precision), sum(1 for _ in documents_of(source))
    encoder = open_model(chosen)
    count = create_index(folder, documents_of(source), encoder.documents, chosen, factory, total)
    said = f"{folder}: {count:,} documents; `effir search --index {folder} QUERY`, `effir serve {folder}`"
    about = f"\n{model}: {encoder.about}" if encoder.about else ""
    answer({"folder": str(folder), "documents": count, "encoding": encoder.about}, said + about, as_json)


@index.command()
@click.argument("source", type=PATH)
@click.argument("folder", type=PATH)
@json_option()
def add(source: Path, folder: Path, as_json: bool) -> None:
    """Add the documents of SOURCE to the index in FOLDER; a document replaces the one with its id.

    Example: effir index add more.jsonl my-index
    """
    from effir.serve.documents import add_documents, read_manifest
    from effir.serve.open_model import open_model
    from effir.serve.texts import documents_of

    manifest, total = read_manifest(folder), sum(1 for _ in documents_of(source))
    count, replaced = add_documents(folder, documents_of(source), open_model(manifest.model).documents, total)
    said = f"{folder}: {count:,} documents added; {replaced:,} of them replaced older ones"
    answer({"folder": str(folder), "added": count, "replaced": replaced}, said, as_json)


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

    lines = require(listed).read_text(encoding="utf-8").splitlines() if listed else []
    wanted = {*ids, *filter(None, map(str.strip, lines))}
    if not wanted:
        raise EffirError("no ids are given: name the documents to delete, or a file of ids with --from")
    count = delete_documents(folder, wanted)
    answer({"folder": str(folder), "deleted": count}, f"{folder}: {count:,} deleted", as_json)
