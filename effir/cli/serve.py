"""`effir serve`."""

from pathlib import Path

import click

from effir.cli.terminal import PATH, answer, json_option
from effir.errors import EffirError


@click.command()
@click.argument("folder", type=PATH)
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 admits other machines.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free port.")
@json_option()
def serve(folder: Path, host: str, port: int, as_json: bool) -> None:
    """Serve the index in FOLDER: a page to search in, /search, /embed, /v1/embeddings, /health, /metrics, /docs.

    The service notices what `effir index add` and `effir index delete` change. Ctrl-C or SIGTERM stops it after the
    running requests.

    Example: effir serve my-index --port 8000
    """
    from effir.serve.documents import read_manifest
    from effir.serve.open_model import open_model

    try:
        from effir.serve import run
        from effir.serve.app import Service, create_app
    except ImportError as missing:
        raise EffirError(f"serving needs {missing.name}: run `pip install 'effir[serve]'`") from None
    manifest, place = read_manifest(folder), run.listen(host, port)
    app = create_app(Service(folder, open_model(manifest.model)))
    run.serve(app, place, lambda address: answer({"address": address}, f"{folder} at {address}", as_json))
