"""The ranking loss: judgements, and beside them which documents a teacher would prefer, and by how much."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, log_softmax, normalize

from effir.cpu.length_bucketing import ByLength


class Teacher(Protocol):
    """What is asked of a teacher, whatever it is."""

    @property
    def own(self) -> NDArray[np.float32]:
        """Scores of each example's own documents, (examples, 1 + negatives), positives first."""

    def vectors(self, rows: Tensor) -> Tensor:
        """Return unit vectors of all texts of the examples ``rows`` (queries,): (queries x (2 + negatives), dimension).

        Queries come first, then documents in the order of :meth:`scores`. EffirError where it has none.
        """

    def scores(self, rows: Tensor) -> Tensor:
        """Score the texts of the examples ``rows`` (queries,): float32 (queries, queries x (1 + negatives)).

        Columns are all positives, then all first negatives, and so on: the order of the ranking loss. NaN where the
        teacher has no opinion.
        """


@dataclass(frozen=True)
class TeacherTerm:
    """A teacher, the ``weight`` of its preferences in the loss, and the ``temperature`` that divides its scores.

    ``vectors`` is the weight of its embeddings themselves; above 0 they must have the retriever's dimension.
    """

    teacher: Teacher
    weight: float
    temperature: float
    vectors: float = 0.0


def ranking_loss(
    model: SentenceTransformer, temperature: float, teacher_term: TeacherTerm | None = None, mini_batch: int = 0
) -> nn.Module:
    """InfoNCE over a query's positive, every other document of the batch, and all hard negatives (EffiR, sec. 3).

    With a ``teacher_term``, the teacher's term is added. With a ``mini_batch``, activations of so many texts are held at a
    time, and every text is read twice; the loss and its gradients are the same.
    """
    settings = {
        "scale": 1 / temperature,
        "similarity_fct": cosine,
        "gather_across_devices": torch.distributed.is_available() and torch.distributed.is_initialized(),
    }
    # On an accelerator one part is the whole, and cached gradients want to see the distributed model itself.
    encoder: Any = model if torch.accelerator.is_available() else ByLength(model)
    loss: nn.Module = (
        TeacherRankingLoss(encoder, teacher_term, **settings)
        if teacher_term
        else MultipleNegativesRankingLoss(encoder, **settings)
    )
    return CachedRankingLoss(model, loss, mini_batch) if mini_batch else loss


def cosine(queries: Tensor, documents: Tensor) -> Tensor:
    """Cosines (queries, documents) in float32, also under autocast: a temperature of 0.02 magnifies rounding."""
    with torch.autocast(queries.device.type, enabled=False):
        return normalize(queries.float(), dim=-1) @ normalize(documents.float(), dim=-1).T


class TeacherRankingLoss(MultipleNegativesRankingLoss):
    """InfoNCE plus the divergence from a teacher's distribution over positive, hard and in-batch negatives.

    (EffiR, sec. 3.) Beside it, not the paper's, the distance to the teacher's own vectors. Labels are the rows of a
    batch's examples. With several processes the teacher judges each one's own batch.
    """

    def __init__(self, model: nn.Module, teacher_term: TeacherTerm, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.teacher_term = teacher_term

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        """Return the scalar loss of a batch's embeddings, (batch, hidden) a column: query, positive, negatives."""
        loss: Tensor = super().compute_loss_from_embeddings(embeddings, labels)
        teacher_term = self.teacher_term
        if teacher_term.weight:
            found = cosine(embeddings[0], torch.cat(embeddings[1:])) * self.scale
            wanted = teacher_term.teacher.scores(labels).to(found.device) / teacher_term.temperature
            loss = loss + teacher_term.weight * divergence(found, wanted)
        if teacher_term.vectors:
            loss = loss + teacher_term.vectors * distance(torch.cat(embeddings), teacher_term.teacher.vectors(labels))
        return loss


class CachedRankingLoss(CachedMultipleNegativesRankingLoss):
    """A ranking loss in the memory of a mini-batch, by gradients that are kept (Gao et al., 2021, "GradCache")."""

    def __init__(self, model: SentenceTransformer, whole: Any, mini_batch: int) -> None:
        super().__init__(model, mini_batch_size=mini_batch)
        self.model, self.loss = whole.model, whole

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """Return the loss of a batch whose columns were embedded piece by piece, (texts, hidden) each."""
        loss: Tensor = self.loss.compute_loss_from_embeddings([torch.cat(pieces) for pieces in reps], labels)
        if with_backward:
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach() if with_backward else loss


def divergence(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean over queries of KL(teacher || student), both logits (queries, candidates).

    A candidate of which the teacher has no opinion, NaN in ``wanted``, is left out on both sides.

    >>> divergence(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[3.0, 4.0, torch.nan]])).item()
    0.0
    """
    known = ~wanted.isnan()
    lowest = torch.finfo(found.dtype).min
    student = log_softmax(found.masked_fill(~known, lowest), dim=-1)
    teacher = log_softmax(wanted.masked_fill(~known, lowest), dim=-1)
    return (teacher.exp() * (teacher - student)).masked_fill(~known, 0).sum(dim=-1).mean()


def distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean ``1 - cos`` of vectors, both (texts, dimension).

    >>> distance(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])).item()
    0.5
    """
    return (1 - cosine_similarity(found.float(), wanted.to(found.device), dim=-1)).mean()
