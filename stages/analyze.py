"""Score the redundancy of every attention, MLP and block, and order what may be dropped."""

from dataclasses import asdict

import click
import torch

from effir.compress.importance import measure_importance
from effir.compress.loading import load_model, token_batches
from effir.compress.onebyone import drop_order
from effir.compress.order import KINDS, order_by_score
from effir.compress.shape import shape_of
from effir.data.calibration import load_calibration
from effir.files import require, write_json
from effir.packed import pack
from stages.paths import BASE, CALIBRATION, ORDER, REDUNDANCY
from stages.program import running


@click.command()
def main() -> None:
    """Score every sublayer by how little it changes its input, in one pass; order them by that, or one by one."""
    with running("analyze") as stage:
        analyze, kinds = stage.params.analyze, KINDS[stage.params.prune.sublayer]
        model, tokenizer = load_model(require(BASE, made_by="download"))
        shape = shape_of(BASE)
        pack(model, torch.float32)
        texts = load_calibration(require(CALIBRATION, made_by="download"), analyze.texts)
        size = {"max_tokens": analyze.max_tokens, "batch_size": analyze.batch_size}
        importance = measure_importance(model, token_batches(tokenizer, texts, **size))
        order = order_by_score(importance.scores(), shape, kinds)
        if analyze.criterion == "one_by_one":
            few = token_batches(tokenizer, texts[: analyze.drop_texts], **size)
            order = drop_order(model, shape, few, kinds, round(analyze.drop_share * len(order)))
        write_json(REDUNDANCY, asdict(importance))
        write_json(ORDER, [asdict(drop) for drop in order])
        stage.run.log_metrics({"analyze/samples": importance.samples, "analyze/tokens": importance.tokens})


if __name__ == "__main__":
    main()
