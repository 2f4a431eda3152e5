"""Restore what dropping took: teach the cut model the hidden states of the whole one."""

from dataclasses import asdict

import click

from effir.data.examples import load_examples
from effir.files import require, write_json
from effir.model.checkpoint import save_model
from effir.model.retriever import build_retriever
from effir.model.shape import shape_of
from effir.training.checkpoints import resumable
from effir.training.recovery import restore
from stages.paths import DEPTH, RESTORATION, RESTORED, TRAIN, TUNED
from stages.program import running
from stages.settings import adapters_of, restoring_schedule, retriever_settings


@click.command()
def main() -> None:
    """Train adapters towards the whole model's final hidden states; nothing to do where nothing was dropped."""
    with running("restore") as stage:
        params = stage.params
        settings, schedule = retriever_settings(params), restoring_schedule(params)
        adapters = adapters_of(params, params.restore.lora_rank)
        model = build_retriever(require(DEPTH, made_by="prune_depth"), **settings)
        identity = {**settings, **asdict(schedule), **asdict(adapters)}
        curve: list[dict[str, float]] = []
        with resumable("restore", identity, [TUNED, DEPTH, TRAIN]) as checkpoints:
            if schedule.steps and shape_of(DEPTH) != shape_of(TUNED):
                curve = restore(
                    model,
                    build_retriever(require(TUNED, made_by="tune"), **settings),
                    load_examples(require(TRAIN, made_by="download"), "train", negatives=0),
                    adapters=adapters,
                    schedule=schedule,
                    checkpoints=checkpoints,
                    log=stage.log,
                )
            save_model(model[0].model, DEPTH, RESTORED)
            write_json(RESTORATION, curve)


if __name__ == "__main__":
    main()
