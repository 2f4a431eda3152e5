"""`effir report`: write the tables and plots of all studies."""

from pathlib import Path

import click

from effir.cli.terminal import PATH, answer, json_option
from effir.errors import EffirError

ENCODERS = Path("benchmarks/results/small_encoders.json")


@click.command()
@click.option("--results", type=PATH, default=Path("studies/results"), show_default=True)
@click.option("--encoders", type=PATH, default=ENCODERS, show_default=True, help="Shown in pareto.png, if it exists.")
@json_option("array of the files")
def report(results: Path, encoders: Path, as_json: bool) -> None:
    """Write tables and plots beside the results of all studies, from their JSON alone.

    Example: effir report
    """
    from effir.lab.report import report as write

    written = list(map(str, write(results, encoders)))
    if not written:
        raise EffirError(f"{results} holds no results: run `effir study studies/direct.yaml`")
    answer(written, "\n".join(written), as_json)
