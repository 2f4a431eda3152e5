"""Bring a cut model back near what it was: its teacher is the model before the cut, and needs no judgement."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from effir.cpu.length_bucketing import parts
from effir.cpu.precision import Precision, arithmetic, uses_bfloat16
from effir.cpu.prepacked_linear import pack
from effir.data.examples import Example
from effir.training.trainer import Adapters, Log, Schedule, fit_adapters


class HiddenStateLoss(nn.Module):
    """Mean ``1 - cos`` between the final hidden states of a model and of its teacher, over the real tokens of a batch.

    The teacher is the model before it was cut: no judgement is needed, and each token teaches, not each pair. It runs
    in ``precision``, for the trainer sees to the model's alone.
    """

    def __init__(self, model: SentenceTransformer, teacher: SentenceTransformer, precision: Precision) -> None:
        super().__init__()
        self.model = model
        self.precision = precision
        self._teacher = [teacher.eval()]  # in a list: no submodule, so that it neither trains nor is saved

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None) -> Tensor:
        """Return the scalar loss of one batch of tokenised columns; labels are not read."""
        distances = []
        for part in (part for features in sentence_features for _, part in parts(features)):
            real = part["attention_mask"].bool()
            with torch.no_grad(), torch.autocast(real.device.type, torch.bfloat16, uses_bfloat16(self.precision)):
                wanted = self._teacher[0](dict(part))["token_embeddings"][real]
            found = self.model(dict(part))["token_embeddings"][real]
            distances.append(1 - cosine_similarity(found.float(), wanted.float(), dim=-1))
        return torch.cat(distances).mean()


def distill(
    model: SentenceTransformer,
    teacher: SentenceTransformer,
    examples: Sequence[Example],
    *,
    adapters: Adapters,
    schedule: Schedule,
    checkpoints: Path,
    log: Log,
) -> list[dict[str, float]]:
    """Teach a cut model, in place, the hidden states that its sublayers would have made, and fold the adapters in.

    Reads queries and positives, never hard negatives. Returns the loss curve as ``heal`` does: none with 0 steps.
    The teacher is packed for inference in place (:mod:`effir.cpu.prepacked_linear`).
    """
    if schedule.steps:
        pack(teacher[0].model, arithmetic(schedule.precision))
    pairs = [replace(example, negatives=()) for example in examples]
    loss = HiddenStateLoss(model, teacher, schedule.precision)
    return fit_adapters(model, pairs, loss, adapters, schedule, checkpoints, log)
