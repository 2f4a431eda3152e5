"""The ranking loss with a teacher; expected values are derived. Without one, see test_trainer.py."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from effir.model.retriever import build_retriever
from effir.training.losses import TeacherTerm, divergence, ranking_loss

pytestmark = pytest.mark.usefixtures("one_thread")

NAN = math.nan


@dataclass(frozen=True)
class Fixed:
    wanted: Tensor

    def vectors(self, rows: Tensor) -> Tensor:
        return torch.tensor([[1.0, 0.0]]).expand(2 * len(rows), 2)

    def scores(self, rows: Tensor) -> Tensor:
        return self.wanted[rows]


def test_the_divergence_is_kl_from_teacher_to_student_a_query() -> None:
    found = torch.tensor([[0.0, 0.0]])  # 1/2 and 1/2
    wanted = torch.log(torch.tensor([[0.75, 0.25]]))
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert divergence(found, wanted).item() == pytest.approx(expected, abs=1e-6)


def test_without_a_teacher_score_neither_value_nor_gradient_depends_on_the_student() -> None:
    wanted = torch.tensor([[1.0, NAN, 0.0], [NAN, 2.0, NAN]])
    found = torch.tensor([[0.5, 3.0, 0.0], [1.0, 2.0, 3.0]], requires_grad=True)
    value = divergence(found, wanted)
    value.backward()
    assert found.grad is not None
    # The first query's two known candidates; the second has one, with probability 1 on both sides.
    p, q = 1 / (1 + math.exp(-1.0)), 1 / (1 + math.exp(-0.5))
    kl = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert value.item() == pytest.approx(kl / 2, abs=1e-6)
    expected = torch.tensor([[q - p, 0.0, p - q], [0.0, 0.0, 0.0]]) / 2
    torch.testing.assert_close(found.grad, expected, atol=1e-6, rtol=0)


def test_the_teacher_term_has_a_weight_and_a_temperature_and_reads_the_rows_of_the_batch() -> None:
    queries, positives = torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # Cosines are 1 and 0, divided by 0.5. The teacher's scores of rows 2 and 0, divided by 0.25: 1 and 0, and 0 and 0.
    teacher = Fixed(torch.tensor([[0.0, 0.0], [9.0, 9.0], [0.25, 0.0]]))
    teacher_term = TeacherTerm(teacher, weight=3.0, temperature=0.25)
    loss: Any = ranking_loss(nn.Identity(), 0.5, teacher_term)  # type: ignore[arg-type]
    found = loss.compute_loss_from_embeddings([queries, positives], torch.tensor([2, 0]))
    s, t = 1 / (1 + math.exp(-2.0)), 1 / (1 + math.exp(-1.0))  # of the positive: student's, first teacher's
    first = t * math.log(t / s) + (1 - t) * math.log((1 - t) / (1 - s))
    second = 0.5 * math.log(0.5 / s) + 0.5 * math.log(0.5 / (1 - s))
    assert found.item() == pytest.approx(-math.log(s) + 3 * (first + second) / 2, abs=1e-6)


def test_the_vectors_of_the_teacher_have_a_weight_of_their_own() -> None:
    queries, positives = torch.eye(2), torch.eye(2)
    teacher_term = TeacherTerm(Fixed(torch.zeros(2, 2)), weight=0.0, temperature=1.0, vectors=4.0)
    distilled, plain = (ranking_loss(nn.Identity(), 0.5, one) for one in (teacher_term, None))  # type: ignore[arg-type]
    found, without = (
        loss.compute_loss_from_embeddings([queries, positives], torch.tensor([0, 1]))  # type: ignore[operator]
        for loss in (distilled, plain)
    )
    # Of four vectors two are the teacher's (1, 0), and two are at right angles to it: their mean 1 - cos is 1/2.
    assert (found - without).item() == pytest.approx(4 * 0.5, abs=1e-6)


def test_each_text_ranks_all_other_texts_as_the_teacher_does() -> None:
    queries, positives = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    embeddings = [torch.cat([queries, queries]), torch.cat([queries, positives])]
    teacher_term = TeacherTerm(Fixed(torch.zeros(2, 2)), weight=0.0, temperature=1.0, similarities=3.0)
    distilled, plain = (ranking_loss(nn.Identity(), 0.5, one) for one in (teacher_term, None))  # type: ignore[arg-type]
    found, without = (
        loss.compute_loss_from_embeddings(embeddings, torch.tensor([0, 1]))  # type: ignore[operator]
        for loss in (distilled, plain)
    )
    # The teacher's four vectors are equal: each text has 1/3 for each other one. Of the student's, three are (1, 0) and
    # one is (0, 1). By the temperature of 0.5 each of the three has the logits 2, 2, 0, the fourth three times 0.
    z = 2 * math.exp(2) + 1
    of_the_three = (2 * math.log(z / 3 / math.exp(2)) + math.log(z / 3)) / 3
    assert (found - without).item() == pytest.approx(3 * (3 * of_the_three + 0) / 4, abs=1e-5)


@pytest.fixture
def retriever(tiny_checkpoint: Callable[[bool], Path]) -> SentenceTransformer:
    return build_retriever(
        tiny_checkpoint(False), pooling="last", query_prompt="q: ", document_prompt="", max_tokens=32
    )


@pytest.mark.parametrize("distilled", [False, True])
def test_a_mini_batch_changes_neither_the_loss_nor_its_gradients(
    retriever: SentenceTransformer, distilled: bool
) -> None:
    texts = [["first", "the second", "a third one"], ["one", "number two", "3"], ["no", "none of these", "n"]]
    teacher_term = (
        TeacherTerm(Fixed(torch.randn(3, 6, generator=torch.Generator().manual_seed(0))), 2.0, 0.5)
        if distilled
        else None
    )

    def loss_and_gradients(mini_batch: int) -> dict[str, Tensor]:
        retriever.zero_grad()
        loss = ranking_loss(retriever, 0.1, teacher_term, mini_batch)
        value = loss([retriever.preprocess(column) for column in texts], torch.tensor([2, 0, 1]))
        value.backward()
        found = {name: p.grad.clone() for name, p in retriever.named_parameters() if p.grad is not None}
        return {"loss": value.detach(), **found}

    at_once, pieces = loss_and_gradients(0), loss_and_gradients(2)
    assert at_once.keys() == pieces.keys()
    assert len(at_once) > 10
    for name, expected in at_once.items():
        torch.testing.assert_close(pieces[name], expected, atol=1e-5, rtol=1e-4, msg=name)
