"""Cut the remaining MLPs to the channels with the highest scores, ranked over all layers together."""

import click

from effir.compress.channels import choose_channels, describe_scores, load_scores
from effir.compress.cut import cut_checkpoint
from effir.compress.gates import gate_factors
from effir.files import require, write_json
from effir.model.shape import shape_of
from stages.paths import CHANNELS, DISTILLED, SLIMMING, WIDTH
from stages.program import running


@click.command()
def main() -> None:
    """Keep the share prune.width of the MLP channels."""
    with running("prune_width") as stage:
        prune, shape = stage.params.prune, shape_of(require(DISTILLED))
        scores, method = load_scores(require(CHANNELS))
        channels, gates, report = {}, {}, None
        if prune.width < 1 and scores:
            channels = choose_channels(scores, prune.width, prune.multiple_of)
            gates = gate_factors(scores) if prune.keep_gates and method == "slimming" else {}
            report = describe_scores(scores, channels)
        widths = [len(channels.get(layer, range(width))) for layer, width in enumerate(shape.mlp_widths)]
        slim = shape.with_mlp_widths(widths)
        cut_checkpoint(DISTILLED, WIDTH, slim, channels, gates)
        write_json(SLIMMING, {"method": method, "widths": widths, "scores": report})
        stage.run.log_metrics({"width/channels": sum(widths), "width/parameters": slim.parameters(embeddings=False)})


if __name__ == "__main__":
    main()
