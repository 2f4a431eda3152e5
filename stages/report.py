"""Draw every plot from the reports."""

import click

from effir.evaluation.plots import draw_loss, draw_quality, draw_redundancy, draw_slimming
from effir.files import read_json, writing
from stages.paths import BASELINES, LOSS, METRICS, PLOTS, REDUNDANCY, SLIMMING
from stages.program import checked


@click.command()
def main() -> None:
    """Draw redundancy, channel scores, the loss of fine-tuning and search quality from the JSON of other stages."""
    with checked() as params, writing(PLOTS) as plots:
        plots.mkdir()
        draw_redundancy(read_json(REDUNDANCY), plots / "redundancy.png")
        draw_slimming(read_json(SLIMMING), plots / "slimming.png")
        draw_loss(read_json(LOSS), plots / "finetune_loss.png")
        for name in params.data.eval:
            metrics = read_json(METRICS / f"{name}.json")
            baselines = read_json(BASELINES / f"{name}.json")
            others = {baseline: found["metrics"] for baseline, found in baselines.items()}
            draw_quality(name, metrics, others, plots / f"{name}.png")


if __name__ == "__main__":
    main()
