"""`effir report`: the tables and pictures of all studies."""

import json
from pathlib import Path

import click


@click.command()
@click.option("--results", type=click.Path(path_type=Path), default=Path("studies/results"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The files as one JSON array, for programs.")
def report(results: Path, as_json: bool) -> None:
    """Write a table and a picture beside the JSON of every study, from that alone.

    Example: effir report
    """
    from effir.errors import EffirError
    from effir.study_report import report as write

    written = write(results)
    if not written:
        raise EffirError(f"{results} holds no results: run `effir study studies/direct.yaml`")
    click.echo(json.dumps(list(map(str, written))) if as_json else "\n".join(map(str, written)))
