"""Make a retriever of the whole model before it is cut."""

import shutil

import click

from effir.files import require, write_json, writing
from stages.paths import BASE, TUNED, TUNING
from stages.program import running
from stages.retriever_training import heal_retriever, outside_opinion
from stages.settings import tuning_schedule


@click.command()
def main() -> None:
    """Heal the base model for tune.steps with LoRA; with 0 steps it stays what it is."""
    with running("tune") as stage:
        params, base, curve = stage.params, require(BASE, made_by="download"), list[dict[str, float]]()
        if params.tune.steps:
            curve = heal_retriever(
                params,
                base,
                TUNED,
                rank=params.tune.lora_rank,
                schedule=tuning_schedule(params),
                opinion=outside_opinion(params),
                log=stage.log,
            )
        else:
            with writing(TUNED) as draft:
                shutil.copytree(base, draft)
        write_json(TUNING, curve)


if __name__ == "__main__":
    main()
