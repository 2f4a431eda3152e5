"""Let the tuned model read the training texts, as the teacher of what is left of it."""

import click

from effir.files import require
from effir.training.opinions import no_teacher
from stages.paths import OWN_TEACHER, TUNED
from stages.program import running
from stages.teacher_reading import keep_opinion


@click.command()
def main() -> None:
    """Keep the tuned model's opinion of every query, positive and hard negative; nothing where it does not teach."""
    with running("teach_own") as stage:
        if not stage.params.taught_by_own:
            return no_teacher(OWN_TEACHER)
        keep_opinion(stage.params, str(TUNED), require(TUNED, made_by="tune"), OWN_TEACHER)


if __name__ == "__main__":
    main()
