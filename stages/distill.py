"""Distil the hidden states of the uncompressed model into the one that lost sublayers."""

from dataclasses import asdict
from pathlib import Path

import click

from effir.data.examples import load_examples
from effir.files import require, write_json
from effir.model.checkpoint import save_model
from effir.model.retriever import build_retriever
from effir.model.shape import shape_of
from effir.resume import resumable
from effir.training.distillation import distill
from effir.training.trainer import Curve, Job
from stages.paths import DEPTH, DISTILL_LOSS, DISTILLED, FULL, TRAIN
from stages.program import running
from stages.schedules import adapters_of, distill_schedule
from stages.settings import text_settings


@click.command()
def main() -> None:
    """Train adapters towards the uncompressed model's final hidden states; nothing to do where nothing was dropped."""
    with running("distill") as stage:
        params = stage.params
        settings, schedule = text_settings(params), distill_schedule(params)
        adapters = adapters_of(params, params.distill.lora_rank)
        model = build_retriever(require(DEPTH), **settings)
        identity = {**settings, **asdict(schedule), **asdict(adapters)}
        curve: Curve = []
        with resumable("distill", identity, [FULL, DEPTH, TRAIN, Path(__file__)]) as checkpoints:
            if schedule.steps and shape_of(DEPTH) != shape_of(FULL):
                teacher = build_retriever(require(FULL), **settings)
                examples = load_examples(require(TRAIN), "train", negatives=0)
                curve = distill(model, teacher, examples, adapters, Job(schedule, checkpoints, stage.log))
            save_model(model[0].model, DEPTH, DISTILLED)
            write_json(DISTILL_LOSS, curve)


if __name__ == "__main__":
    main()
