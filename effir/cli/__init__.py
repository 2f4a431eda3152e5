"""The `effir` command. Its parts import what is heavy late, so that help answers at once."""

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
from effir.cli.train import train
from effir.cli.vocabulary import vocabulary
from effir.cpu.threads import limit_threads
from effir.lab.pipeline import refusing

SECTIONS: dict[str, tuple[click.Command, ...]] = {
    "Train and try": (train, search, compare, models, promote, rollback),
    "Use the retriever": (index, serve, export, vocabulary),
    "Your own data and model": (data, profile, plan, importing),
    "Experiments": (sweep, study, report),
}
"""All commands, in the order in which a person needs them."""


class Effir(click.Group):
    """Commands in sections. A mistake that the user can correct ends with one sentence and status 2."""

    def invoke(self, context: click.Context) -> object:
        """Run the command."""
        limit_threads()
        with refusing():
            return super().invoke(context)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections of the help."""
        room = formatter.width - 6 - max(map(len, self.commands))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(str(each.name), each.get_short_help_str(room)) for each in commands])


@click.group(cls=Effir)
@click.version_option(package_name="effir")
def main() -> None:
    """Turn a decoder-only language model into a small, fast dense retriever.

    `effir train pairs.csv` goes from a table of questions and answers to a retriever. The pipeline itself runs by DVC:
    `dvc repro`, or `dvc exp run -S prune.width=0.6` to try a setting.
    """


for section in SECTIONS.values():
    for command in section:
        main.add_command(command)
