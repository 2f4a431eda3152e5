"""Score the training texts by the teacher, once for all experiments."""

import click

from effir.data.sources import fetch
from effir.files import state_dir
from effir.training.teacher import write_no_teacher
from stages.paths import TEACHER
from stages.program import running
from stages.teacher_reading import score_training_texts


@click.command()
def main() -> None:
    """Cache the teacher's outputs for every query, positive and hard negative; nothing to do without a teacher."""
    with running("teacher_scores") as stage:
        source = stage.params.training.teacher
        if not source:
            return write_no_teacher(TEACHER)
        score_training_texts(stage.params, source, fetch(source, state_dir("downloads")), TEACHER)


if __name__ == "__main__":
    main()
