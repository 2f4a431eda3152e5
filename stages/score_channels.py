"""Score every channel of the remaining MLPs, whatever share of them is kept later."""

from dataclasses import asdict
from pathlib import Path

import click

from effir.compress.channel_scores import Scoring, score_channels
from effir.compress.channels import ChannelScores, save_scores
from effir.data.examples import load_examples
from effir.files import require
from effir.model.retriever import build_retriever
from effir.model.shape import shape_of
from effir.resume import resumable
from effir.training.trainer import Job
from stages.paths import CHANNELS, DISTILLED, TRAIN
from stages.program import running
from stages.schedules import gate_schedule
from stages.settings import retriever_settings


@click.command()
def main() -> None:
    """Score the channels by prune.method; nothing to do with the method none, or where no MLP is left."""
    with running("score_channels") as stage:
        params, prune, scores = stage.params, stage.params.prune, ChannelScores()
        scoring = Scoring(prune.method, params.training.temperature, prune.l0_weight, prune.sharpness)
        schedule, settings = gate_schedule(params), retriever_settings(params)
        identity = {**settings, **asdict(scoring), **asdict(schedule)}
        with resumable("score_channels", identity, [require(DISTILLED), TRAIN, Path(__file__)]) as work:
            if scoring.method != "none" and any(shape_of(DISTILLED).mlp_widths):
                examples = load_examples(require(TRAIN), "train", negatives=0)
                model = build_retriever(DISTILLED, **settings)
                scores = score_channels(model, examples, scoring, Job(schedule, work, stage.log))
            save_scores(scores, scoring.method, CHANNELS)


if __name__ == "__main__":
    main()
