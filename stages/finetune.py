"""Heal the cut model as a retriever."""

import click

from effir.files import require, write_json
from stages.paths import HEALED, LOSS, WIDTH
from stages.program import running
from stages.retriever_training import heal_retriever, outside_opinion, own_opinion
from stages.settings import healing_schedule


@click.command()
def main() -> None:
    """Heal the cut model with LoRA on the training pairs and fold the adapters in."""
    with running("finetune") as stage:
        params, width = stage.params, require(WIDTH, made_by="prune_width")
        opinion = own_opinion(params) if params.taught_by_own else outside_opinion(params)
        curve = heal_retriever(
            params,
            width,
            HEALED,
            rank=params.finetune.lora_rank,
            schedule=healing_schedule(params),
            opinion=opinion,
            log=stage.log,
        )
        write_json(LOSS, curve)


if __name__ == "__main__":
    main()
