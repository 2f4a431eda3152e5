"""Heal the cut model as a retriever."""

import click

from effir.data.examples import load_examples
from effir.files import require, write_json
from effir.opinions import drawn
from effir.resuming import checkpoints_for
from effir.retriever import build_retriever, save_retriever
from effir.teacher import taught_examples
from effir.training import heal
from stages.paths import HEALED, LOSS, TEACHER, TRAIN, WIDTH
from stages.program import running
from stages.settings import healing_adapters, healing_schedule, lesson_of, retriever_settings


@click.command()
def main() -> None:
    """Heal the cut model with LoRA on the training pairs and fold the adapters in."""
    with running("finetune") as stage:
        params = stage.params
        mined = load_examples(require(TRAIN, made_by="download"), "train", params.data.negatives)
        mined = drawn(mined, params.finetune.examples)
        margin, count, miner = params.finetune.teacher_margin, params.finetune.negatives, params.finetune.miner
        examples, teacher = taught_examples(require(TEACHER, made_by="teach"), mined, margin, count, miner)
        model = build_retriever(require(WIDTH, made_by="prune_width"), **retriever_settings(params))
        settings = {**params.finetune.model_dump(), **retriever_settings(params)}
        curve = heal(
            model,
            examples,
            adapters=healing_adapters(params),
            temperature=params.finetune.temperature,
            schedule=healing_schedule(params),
            checkpoints=checkpoints_for("finetune", settings, [WIDTH, TRAIN, TEACHER]),
            log=stage.log,
            lesson=lesson_of(params, teacher),
            mini_batch=params.finetune.mini_batch,
        )
        save_retriever(model, HEALED)
        write_json(LOSS, curve)


if __name__ == "__main__":
    main()
