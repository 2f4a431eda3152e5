"""Slim the remaining MLPs: rank all channels of all layers together and keep the best share."""

from dataclasses import asdict

import click

from effir.compress.channel_scores import choose_channels, describe_scores, factors
from effir.compress.cut import cut_checkpoint
from effir.compress.scoring import score_channels
from effir.data.examples import load_examples
from effir.files import require, write_json
from effir.model.retriever import build_retriever
from effir.model.shape import shape_of
from effir.training.checkpoints import resumable
from stages.paths import RESTORED, SLIMMING, TRAIN, WIDTH
from stages.program import running
from stages.settings import gate_schedule, gate_scoring, retriever_settings


@click.command()
def main() -> None:
    """Keep the share prune.width of the MLP channels, chosen by prune.method."""
    with running("prune_width") as stage:
        params = stage.params
        shape = shape_of(require(RESTORED, made_by="restore"))
        scoring, schedule = gate_scoring(params), gate_schedule(params)
        settings = {**retriever_settings(params), **asdict(scoring), **asdict(schedule)}
        channels, gates, report = {}, {}, None
        with resumable("prune_width", settings, [RESTORED, TRAIN]) as work:
            if params.prune.width < 1 and any(shape.mlp_widths):
                examples = load_examples(require(TRAIN, made_by="download"), "train", negatives=0)
                model = build_retriever(RESTORED, **retriever_settings(params))
                scores = score_channels(model, examples, scoring, schedule, work, stage.log)
                channels = choose_channels(scores, params.prune.width, params.prune.multiple_of)
                if params.prune.keep_gates and params.prune.method == "slimming":
                    gates = factors(scores)
                report = describe_scores(scores, channels)
            widths = [len(channels.get(layer, range(width))) for layer, width in enumerate(shape.mlp_widths)]
            slim = shape.with_mlp_widths(widths)
            cut_checkpoint(RESTORED, WIDTH, slim, channels, gates)
            write_json(SLIMMING, {"method": params.prune.method, "widths": widths, "scores": report})
        stage.run.log_metrics({"width/channels": sum(widths), "width/parameters": slim.parameters(embeddings=False)})


if __name__ == "__main__":
    main()
