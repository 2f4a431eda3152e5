"""Let the teacher read the training texts, once for all experiments."""

import click

from effir.data.examples import load_examples
from effir.data.sources import fetch
from effir.files import require, state_dir
from effir.opinions import drawn, no_teacher
from effir.resuming import checkpoints_for
from effir.teaching import teach
from stages.paths import TEACHER, TRAIN
from stages.program import running


@click.command()
def main() -> None:
    """Keep the teacher's opinion of every query, positive and hard negative; nothing to do without a teacher."""
    with running("teach") as stage:
        source, max_tokens = stage.params.finetune.teacher, stage.params.finetune.max_tokens
        if not source:
            return no_teacher(TEACHER)
        examples = load_examples(require(TRAIN, made_by="download"), "train", stage.params.data.negatives)
        examples = drawn(examples, stage.params.finetune.examples)
        folder = fetch(source, state_dir("downloads"))
        settings = {"max_tokens": max_tokens, "examples": stage.params.finetune.examples}
        work = checkpoints_for("teach", settings, [folder, TRAIN])
        teach(source, folder, examples, TEACHER, max_tokens=max_tokens, work=work)


if __name__ == "__main__":
    main()
