"""Make a retriever of the whole model before it is cut, and let it read the training texts as its own teacher."""

import shutil

import click

from effir.files import require, write_json, writing
from effir.opinions import no_teacher
from stages.healing import heal_retriever, outside_opinion
from stages.paths import BASE, OWN_TEACHER, TUNED, TUNING
from stages.program import running
from stages.reading import keep_opinion
from stages.settings import tuning_schedule


@click.command()
def main() -> None:
    """Heal the base model for tune.steps with LoRA; with 0 steps it stays what it is."""
    with running("tune") as stage:
        params, base = stage.params, require(BASE, made_by="download")
        if params.tune.steps:
            curve = heal_retriever(params, base, TUNED, tuning_schedule(params), outside_opinion(params), stage.log)
            keep_opinion(params, str(TUNED), TUNED, OWN_TEACHER)
            return write_json(TUNING, curve)
        with writing(TUNED) as draft:
            shutil.copytree(base, draft)
        no_teacher(OWN_TEACHER)
        write_json(TUNING, [])


if __name__ == "__main__":
    main()
