#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0: the Trainer logs a loss of 0 for a training that has diverged.
#
# Seen: from step 4 on the loss of every step is NaN and so is the weight, but each logged loss is 0.0, which looks like a perfect
# fit. The training ends without an error or a warning. With `logging_nan_inf_filter=False` the log says nan.
# Expected: a loss curve shows that the training diverged.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3.11 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 numpy 2> pip.err ||
    { cat pip.err; exit 1; }
env/bin/python - <<'END'
import math

import torch
from transformers import Trainer, TrainingArguments


class Model(torch.nn.Module):
    """Its loss is w until step 4, and NaN from then on."""

    def __init__(self):
        super().__init__()
        self.w, self.steps = torch.nn.Parameter(torch.ones(1)), 0

    def forward(self, x, labels=None):
        self.steps += 1
        scale = math.nan if self.steps >= 4 else 1.0
        return {"loss": (self.w * scale).sum()}


def losses(filtered):
    model = Model()
    args = TrainingArguments(
        "out", max_steps=9, logging_steps=1, learning_rate=0.01, report_to=[], use_cpu=True, save_strategy="no",
        per_device_train_batch_size=1, disable_tqdm=True, logging_nan_inf_filter=filtered, remove_unused_columns=False,
    )
    data = [{"x": torch.zeros(1), "labels": torch.zeros(1)}] * 9
    trainer = Trainer(model=model, args=args, train_dataset=data)
    trainer.train()
    return [float(row["loss"]) for row in trainer.state.log_history if "loss" in row], model.w.item()


found, weight = losses(True)
print("logged:", [round(loss, 3) for loss in found], "weight:", weight)
assert math.isnan(weight) and found[3:] == [0.0] * 6
found, weight = losses(False)
print("logging_nan_inf_filter=False:", [round(loss, 3) for loss in found])
assert all(map(math.isnan, found[3:]))
END
