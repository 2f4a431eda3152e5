"""Bring the base model, the training collection and the calibration texts."""

import click

from effir.data.base_model import install_base_model
from effir.data.calibration import install_calibration
from effir.data.catalog import install_evaluation, install_training
from effir.files import state_dir
from stages.paths import BASE, CALIBRATION, DEV, TRAIN
from stages.program import running


@click.command()
def main() -> None:
    """Bring the base model, the training collection and the calibration texts."""
    with running("download") as stage:
        data, cache = stage.params.data, state_dir("downloads")
        base, appends_eos = stage.params.model.base, stage.params.retriever.pooling != "base"
        install_base_model(base, BASE, cache, appends_eos=appends_eos)
        train = install_training(
            data.train, TRAIN, negatives=data.negatives, mirror=data.mirror, collections=data.collections, cache=cache
        )
        install_evaluation(
            data.dev, DEV, train=data.train, mirror=data.mirror, collections=data.collections, cache=cache
        )
        install_calibration(data.calibration, train, CALIBRATION, cache, data.collections)


if __name__ == "__main__":
    main()
