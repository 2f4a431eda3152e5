"""The `effir` command: what a person does between two pipelines. Its parts import what is heavy late."""

import click

from effir.cli.compare import compare
from effir.cli.data import data
from effir.cli.export import export
from effir.cli.importing import importing
from effir.cli.index import index
from effir.cli.models import models, promote, rollback
from effir.cli.plan import plan
from effir.cli.profile import profile
from effir.cli.report import report
from effir.cli.search import search
from effir.cli.serve import serve
from effir.cli.study import study
from effir.cli.sweep import sweep
from effir.lab.pipeline import refusing


class Refusing(click.Group):
    """A group whose commands turn a mistake that its reader can correct into a refusal."""

    def invoke(self, context: click.Context) -> object:
        """Run the command."""
        with refusing():
            return super().invoke(context)


@click.group(cls=Refusing)
@click.version_option(package_name="effir")
def main() -> None:
    """Turn a decoder-only language model into a small, fast dense retriever.

    The pipeline itself runs by DVC: `dvc repro`, `dvc exp run -S prune.width=0.6`.
    """


COMMANDS = (search, index, serve, export, importing, plan, data, models, promote, rollback, profile, compare)
for command in (*COMMANDS, sweep, study, report):
    main.add_command(command)
