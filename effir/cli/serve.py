"""`effir serve`."""

import json
from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 lets other machines in.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--json", "as_json", is_flag=True, help="Say the address as a JSON object, for programs.")
def serve(folder: Path, host: str, port: int, as_json: bool) -> None:
    """Serve the index in FOLDER: a page to search in, /search, /embed, /v1/embeddings, /health, /metrics, /docs.

    Documents that `effir index add` and `delete` change are noticed. Ctrl-C or SIGTERM stops it when it has finished
    what it began.

    Example: effir serve my-index --port 8000
    """
    from effir.errors import EffirError
    from effir.serve.documents import read_manifest
    from effir.serve.open_model import open_model

    try:
        from effir.serve.app import Service, create_app
        from effir.serve.run import listen
        from effir.serve.run import serve as run
    except ImportError as missing:
        raise EffirError(f"serving needs {missing.name}: run `pip install 'effir[serve]'`") from None
    manifest = read_manifest(folder)
    place = listen(host, port)
    app = create_app(Service(folder, open_model(manifest.model)))
    run(
        app,
        place,
        lambda address: click.echo(json.dumps({"address": address}) if as_json else f"{folder} at {address}"),
    )
