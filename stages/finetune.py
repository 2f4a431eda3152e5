"""Fine-tune the cut model as a retriever."""

import click

from effir.files import require, write_json
from stages.paths import FINETUNED, LOSS, WIDTH
from stages.program import running
from stages.retriever_training import outside_teacher, self_teacher, train_retriever
from stages.schedules import finetune_schedule


@click.command()
def main() -> None:
    """Fine-tune the cut model with LoRA on the training pairs and merge the adapters."""
    with running("finetune") as stage:
        params = stage.params
        curve = train_retriever(
            params,
            require(WIDTH),
            FINETUNED,
            rank=params.finetune.lora_rank,
            schedule=finetune_schedule(params),
            teacher=self_teacher(params) if params.self_distilled else outside_teacher(params),
            log=stage.log,
        )
        write_json(LOSS, curve)


if __name__ == "__main__":
    main()
