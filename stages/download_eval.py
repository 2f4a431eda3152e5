"""Bring one set to evaluate on."""

import click

from effir.data.catalog import install_evaluation
from effir.files import state_dir
from stages.paths import EVAL
from stages.program import running


@click.command()
@click.argument("name")
def main(name: str) -> None:
    """Bring the evaluation set NAME, one of data.eval."""
    with running(f"download_eval@{name}") as stage:
        data, cache = stage.params.data, state_dir("downloads")
        install_evaluation(
            name, EVAL / name, train=data.train, mirror=data.mirror, collections=data.collections, cache=cache
        )


if __name__ == "__main__":
    main()
