"""Distil the hidden states of the uncompressed model into a cut one; no relevance judgements are needed."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from effir.cpu.length_bucketing import over_buckets
from effir.cpu.prepacked_linear import prepack
from effir.data.examples import Example
from effir.model.precision import TrainingPrecision, arithmetic, decision, uses_bfloat16
from effir.training.trainer import Adapters, Curve, Job, fit_adapters


class HiddenStateLoss(nn.Module):
    """Mean ``1 - cos`` between the final hidden states of a model and its teacher, over the real tokens of a batch.

    The teacher runs in ``precision``; the trainer sets the precision of the model.
    """

    def __init__(self, model: SentenceTransformer, teacher: SentenceTransformer, precision: TrainingPrecision) -> None:
        super().__init__()
        self.model, self.precision = model, precision
        self._teacher = [teacher.eval()]  # in a list, so that it is not a submodule: it does not train

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None) -> Tensor:
        """Return the scalar loss of one batch of tokenised columns; labels are not read."""
        columns = [over_buckets(self.model, self._distances, features)[0] for features in sentence_features]
        return torch.cat(columns).mean()

    def _distances(self, bucket: dict[str, Tensor]) -> Tensor:
        real = bucket["attention_mask"].bool()
        with torch.no_grad(), torch.autocast(real.device.type, torch.bfloat16, uses_bfloat16(self.precision)):
            wanted = self._teacher[0](dict(bucket))["token_embeddings"][real]
        states = self.model(dict(bucket))["token_embeddings"][real]
        return 1 - cosine_similarity(states.float(), wanted.float(), dim=-1)


def distill(
    model: SentenceTransformer, teacher: SentenceTransformer, examples: Sequence[Example], adapters: Adapters, job: Job
) -> Curve:
    """Train adapters of a cut model towards the teacher's hidden states, in place, and merge them.

    Reads queries and positives, not hard negatives. Returns the loss curve, empty with 0 steps. The linear layers of
    the teacher are prepacked in place (:mod:`effir.cpu.prepacked_linear`).
    """
    precision = decision(job.schedule.precision, teacher[0].model.config).arithmetic
    if job.schedule.steps:
        prepack(teacher[0].model, arithmetic(precision))
    pairs = [replace(example, negatives=()) for example in examples]
    return fit_adapters(model, pairs, HiddenStateLoss(model, teacher, precision), adapters, job)
