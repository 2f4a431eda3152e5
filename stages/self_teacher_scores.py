"""Score the training texts by the uncompressed retriever, the teacher of the cut one."""

import click

from effir.files import require
from effir.training.teacher import write_no_teacher
from stages.paths import FULL, SELF_TEACHER
from stages.program import running
from stages.teacher_reading import score_training_texts


@click.command()
def main() -> None:
    """Cache the uncompressed model's outputs for the training texts; nothing to do where it is not the teacher."""
    with running("self_teacher_scores") as stage:
        if not stage.params.self_distilled:
            return write_no_teacher(SELF_TEACHER)
        score_training_texts(stage.params, str(FULL), require(FULL), SELF_TEACHER)


if __name__ == "__main__":
    main()
