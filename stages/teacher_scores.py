"""Let the teacher read the training texts, once for all experiments."""

import click

from effir.data.sources import fetch
from effir.files import state_dir
from effir.training.opinions import no_teacher
from stages.paths import TEACHER
from stages.program import running
from stages.teacher_reading import keep_opinion


@click.command()
def main() -> None:
    """Keep the teacher's opinion of every query, positive and hard negative; nothing to do without a teacher."""
    with running("teach") as stage:
        source = stage.params.finetune.teacher
        if not source:
            return no_teacher(TEACHER)
        keep_opinion(stage.params, source, fetch(source, state_dir("downloads")), TEACHER)


if __name__ == "__main__":
    main()
