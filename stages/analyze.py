"""Score the redundancy of every attention, MLP and block, and order what may be dropped."""

from dataclasses import asdict
from functools import partial

import click
import torch

from effir.compress.leave_out import order_by_criterion
from effir.compress.redundancy import measure_importance
from effir.cpu.prepacked_linear import prepack
from effir.data.calibration import load_calibration
from effir.files import require, write_json
from effir.model.checkpoint import calibration_batches, load_model
from effir.model.shape import shape_of
from stages.paths import CALIBRATION, FULL, ORDER, REDUNDANCY
from stages.program import running


@click.command()
def main() -> None:
    """Score every sublayer by how little it changes its input, in one pass; order those of one kind by a criterion."""
    with running("analyze") as stage:
        analyze, shape = stage.params.analyze, shape_of(require(FULL))
        model, tokenizer = load_model(FULL)
        prepack(model, torch.float32)
        texts = load_calibration(require(CALIBRATION), analyze.texts)
        batched = partial(calibration_batches, tokenizer, max_tokens=analyze.max_tokens, batch_size=analyze.batch_size)
        importance = measure_importance(model, batched(texts))
        few = partial(batched, texts[: analyze.drop_texts])
        what = analyze.criterion, analyze.sublayer, analyze.drop_share
        order = order_by_criterion(model, shape, importance, few, *what)
        write_json(REDUNDANCY, asdict(importance))
        write_json(ORDER, [asdict(drop) for drop in order])
        stage.run.log_metrics({"analyze/samples": importance.samples, "analyze/tokens": importance.tokens})


if __name__ == "__main__":
    main()
