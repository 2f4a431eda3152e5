"""The ranking loss: InfoNCE, and the distillation of teacher scores and vectors."""

from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, log_softmax, normalize

from effir.cpu.length_bucketing import ByLength
from effir.training.teacher import Outputs


@dataclass(frozen=True)
class TeacherTerm:
    """A teacher, the ``weight`` of its scores in the loss, and the ``temperature`` that divides the scores.

    ``similarities`` is the weight of its cosines between all texts of a batch, ``vectors`` that of its embeddings. Both
    need a bi-encoder, the latter one of the retriever's dimension.
    """

    teacher: Outputs
    weight: float
    temperature: float
    similarities: float = 0.0
    vectors: float = 0.0


def ranking_loss(
    model: SentenceTransformer, temperature: float, teacher_term: TeacherTerm | None = None, mini_batch: int = 0
) -> nn.Module:
    """InfoNCE over a query's positive, every other document of the batch, and all hard negatives (EffiR, sec. 3).

    A ``teacher_term`` is added to it. A ``mini_batch`` limits the number of texts whose activations are in memory;
    every text is then encoded twice, and the loss and its gradients are the same.
    """
    gather = torch.distributed.is_available() and torch.distributed.is_initialized()
    settings = {"scale": 1 / temperature, "similarity_fct": cosine, "gather_across_devices": gather}
    # Buckets do not help on an accelerator, where cached gradients need the distributed model itself.
    encoder: Any = model if torch.accelerator.is_available() else ByLength(model)
    loss: nn.Module = (
        TeacherRankingLoss(encoder, teacher_term, **settings)
        if teacher_term
        else MultipleNegativesRankingLoss(encoder, **settings)
    )
    return CachedRankingLoss(model, loss, mini_batch) if mini_batch else loss


def cosine(queries: Tensor, documents: Tensor) -> Tensor:
    """Cosines (queries, documents) in float32, even under autocast: a temperature of 0.02 magnifies rounding."""
    with torch.autocast(queries.device.type, enabled=False):
        return normalize(queries.float(), dim=-1) @ normalize(documents.float(), dim=-1).T


class TeacherRankingLoss(MultipleNegativesRankingLoss):
    """InfoNCE plus the divergence from a teacher's distribution over positives, hard and in-batch negatives (sec. 3).

    The similarities of all texts and the distance to the teacher's vectors are additions to the paper. Labels are the
    rows of a batch's examples. With several processes the teacher scores the batch of each process.
    """

    def __init__(self, model: nn.Module, teacher_term: TeacherTerm, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.teacher_term = teacher_term

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        """Return the scalar loss of a batch's embeddings, (batch, hidden) a column: query, positive, negatives."""
        loss: Tensor = super().compute_loss_from_embeddings(embeddings, labels)
        term, texts = self.teacher_term, torch.cat(embeddings)
        if term.weight:
            student = cosine(embeddings[0], texts[len(labels) :]) * self.scale
            wanted = term.teacher.scores(labels).to(student.device) / term.temperature
            loss = loss + term.weight * divergence(student, wanted)
        if term.similarities or term.vectors:
            vectors = term.teacher.vectors(labels).to(texts.device)
            student, wanted = (others(cosine(each, each)) for each in (texts, vectors))
            loss = loss + term.similarities * divergence(student * self.scale, wanted / term.temperature)
            loss = loss + (term.vectors * distance(texts, vectors) if term.vectors else 0)
        return loss


class CachedRankingLoss(CachedMultipleNegativesRankingLoss):
    """A ranking loss in the memory of a mini-batch, by cached gradients (Gao et al., 2021, "GradCache")."""

    def __init__(self, model: SentenceTransformer, loss: Any, mini_batch: int) -> None:
        super().__init__(model, mini_batch_size=mini_batch)
        self.model, self.loss = loss.model, loss

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """Return the loss of a batch; ``reps`` holds the embeddings of each column in pieces of (texts, hidden)."""
        loss: Tensor = self.loss.compute_loss_from_embeddings([torch.cat(pieces) for pieces in reps], labels)
        if with_backward:
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach() if with_backward else loss


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over queries of KL(teacher || student), both logits (queries, candidates).

    Candidates without a teacher score, NaN in ``teacher``, are left out on both sides.

    >>> divergence(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[3.0, 4.0, torch.nan]])).item()
    0.0
    """
    unknown, lowest = teacher.isnan(), torch.finfo(student.dtype).min
    log_p, log_q = (log_softmax(each.masked_fill(unknown, lowest), dim=-1) for each in (teacher, student))
    return (log_p.exp() * (log_p - log_q)).masked_fill(unknown, 0).sum(dim=-1).mean()


def others(square: Tensor) -> Tensor:
    """Return a matrix (texts, texts) without its diagonal, (texts, texts - 1): each text beside all others.

    >>> others(torch.arange(9).view(3, 3)).tolist()
    [[1, 2], [3, 5], [6, 7]]
    """
    count = len(square)
    return square[~torch.eye(count, dtype=torch.bool, device=square.device)].view(count, count - 1)


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean ``1 - cos`` of vectors, both (texts, dimension).

    >>> distance(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])).item()
    0.5
    """
    return (1 - cosine_similarity(student.float(), teacher, dim=-1)).mean()
