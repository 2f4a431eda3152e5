"""Fine-tune the cut model as a retriever."""

import click

from effir.files import require, write_json
from stages.paths import FINETUNED, LOSS, WIDTH
from stages.program import running
from stages.retriever_training import outside_teacher, self_teacher, train_retriever
from stages.schedules import finetune_schedule


@click.command()
def main() -> None:
    """Fine-tune the cut model on the training pairs: adapters, which are merged, or all weights."""
    with running("finetune") as stage:
        params = stage.params
        rank, schedule = params.finetune.lora_rank, finetune_schedule(params)
        teacher = self_teacher(params) if params.self_distilled else outside_teacher(params)
        write_json(LOSS, train_retriever(params, require(WIDTH), FINETUNED, rank, schedule, teacher, stage.log))


if __name__ == "__main__":
    main()
