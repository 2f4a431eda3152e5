"""Score the redundancy of every attention, MLP and block, and order what may be dropped."""

from dataclasses import asdict
from functools import partial

import click
import torch

from effir.compress.criteria import order_by_criterion
from effir.compress.redundancy import measure_importance
from effir.cpu.prepacked_linear import pack
from effir.data.calibration import load_calibration
from effir.files import require, write_json
from effir.model.checkpoint import load_model, token_batches
from effir.model.shape import shape_of
from stages.paths import CALIBRATION, FULL, ORDER, REDUNDANCY
from stages.program import running


@click.command()
def main() -> None:
    """Score every sublayer by how little it changes its input, in one pass; order those of one kind by a criterion."""
    with running("analyze") as stage:
        analyze, sublayer = stage.params.analyze, stage.params.analyze.sublayer
        model, tokenizer = load_model(require(FULL))
        pack(model, torch.float32)
        texts = load_calibration(require(CALIBRATION), analyze.texts)
        batched = partial(token_batches, tokenizer, max_tokens=analyze.max_tokens, batch_size=analyze.batch_size)
        importance = measure_importance(model, batched(texts))
        few = partial(batched, texts[: analyze.drop_texts])
        order = order_by_criterion(
            analyze.criterion, model, shape_of(FULL), importance, few, sublayer, share=analyze.drop_share
        )
        write_json(REDUNDANCY, asdict(importance))
        write_json(ORDER, [asdict(drop) for drop in order])
        stage.run.log_metrics({"analyze/samples": importance.samples, "analyze/tokens": importance.tokens})


if __name__ == "__main__":
    main()
