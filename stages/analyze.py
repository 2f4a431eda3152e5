"""Score the redundancy of every attention, MLP and block."""

from dataclasses import asdict

import click
import torch

from effir.compress.importance import measure_importance
from effir.compress.loading import load_model, token_batches
from effir.data.calibration import load_calibration
from effir.files import require, write_json
from effir.packed import pack
from stages.paths import BASE, CALIBRATION, REDUNDANCY
from stages.program import running


@click.command()
def main() -> None:
    """Score every sublayer by how little it changes its input, in one pass over the calibration texts."""
    with running("analyze") as stage:
        analyze = stage.params.analyze
        model, tokenizer = load_model(require(BASE, made_by="download"))
        pack(model, torch.float32)
        texts = load_calibration(require(CALIBRATION, made_by="download"), analyze.texts)
        batches = token_batches(tokenizer, texts, max_tokens=analyze.max_tokens, batch_size=analyze.batch_size)
        importance = measure_importance(model, batches)
        write_json(REDUNDANCY, asdict(importance))
        stage.run.log_metrics({"analyze/samples": importance.samples, "analyze/tokens": importance.tokens})


if __name__ == "__main__":
    main()
