"""Distil the hidden states of the uncompressed model into the one that lost sublayers."""

import shutil
from dataclasses import asdict
from pathlib import Path

import click

from effir.files import require, write_json, writing
from effir.model.shape import shape_of
from stages.paths import DEPTH, DISTILL_LOSS, DISTILLED, FULL, TRAIN
from stages.program import running


@click.command()
def main() -> None:
    """Train adapters towards the uncompressed model's final hidden states; nothing to do where nothing was dropped."""
    with running("distill") as stage:
        params, curve = stage.params, list[dict[str, float]]()
        if params.distill.steps and shape_of(require(DEPTH)) != shape_of(require(FULL)):
            # What trains is imported here, because most runs only copy.
            from effir.data.examples import load_examples
            from effir.model.checkpoint import save_model
            from effir.model.retriever import build_retriever
            from effir.resume import resumable
            from effir.training.distillation import distill
            from effir.training.trainer import Job
            from stages.schedules import adapters_of, distill_schedule
            from stages.settings import text_settings

            settings, schedule = text_settings(params), distill_schedule(params)
            adapters = adapters_of(params, params.distill.lora_rank)
            model, teacher = (build_retriever(folder, **settings) for folder in (DEPTH, FULL))
            identity = {**settings, **asdict(schedule), **asdict(adapters)}
            with resumable("distill", identity, [FULL, DEPTH, TRAIN, Path(__file__)]) as checkpoints:
                examples = load_examples(require(TRAIN), "train", negatives=0)
                curve = distill(model, teacher, examples, adapters, Job(schedule, checkpoints, stage.log))
                save_model(model[0].model, DEPTH, DISTILLED)
        else:
            with writing(DISTILLED) as draft:
                shutil.copytree(require(DEPTH), draft)
        write_json(DISTILL_LOSS, curve)


if __name__ == "__main__":
    main()
