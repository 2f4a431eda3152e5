"""Make a retriever of the uncompressed model."""

import click

from effir.files import require, write_json
from effir.model.retriever import copy_with_eos
from stages.paths import BASE, FULL, FULL_LOSS
from stages.program import running
from stages.retriever_training import outside_teacher, train_retriever
from stages.schedules import finetune_full_schedule


@click.command()
def main() -> None:
    """Fine-tune the base model for finetune_full.steps; with 0 steps its weights stay what they are."""
    with running("finetune_full") as stage:
        params, base, curve = stage.params, require(BASE), list[dict[str, float]]()
        if params.finetune_full.steps:
            rank, schedule = params.finetune_full.lora_rank, finetune_full_schedule(params)
            curve = train_retriever(params, base, FULL, rank, schedule, outside_teacher(params), stage.log)
        else:
            copy_with_eos(base, FULL, eos=params.retriever.pooling != "base")
        write_json(FULL_LOSS, curve)


if __name__ == "__main__":
    main()
