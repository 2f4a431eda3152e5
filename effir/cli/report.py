"""`effir report`: the tables and pictures of all studies."""

import json
from pathlib import Path

import click


@click.command()
@click.option("--results", type=click.Path(path_type=Path), default=Path("studies/results"), show_default=True)
@click.option(
    "--outsiders",
    type=click.Path(path_type=Path),
    default=Path("benchmarks/results/outsiders.json"),
    show_default=True,
    help="Small encoders to show beside, where the file is there.",
)
@click.option("--json", "as_json", is_flag=True, help="The files as one JSON array, for programs.")
def report(results: Path, outsiders: Path, as_json: bool) -> None:
    """Write tables and pictures beside the JSON of the studies, from that alone.

    Example: effir report
    """
    from effir.errors import EffirError
    from effir.lab.report import report as write

    written = write(results, outsiders)
    if not written:
        raise EffirError(f"{results} holds no results: run `effir study studies/direct.yaml`")
    click.echo(json.dumps(list(map(str, written))) if as_json else "\n".join(map(str, written)))
