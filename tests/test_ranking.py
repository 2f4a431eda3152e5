"""The ranking loss with a teacher; expected values are derived. Without one, see test_training.py."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effir.ranking import Lesson, divergence, ranking_loss

NAN = math.nan


@dataclass(frozen=True)
class Fixed:
    wanted: Tensor

    def scores(self, rows: Tensor) -> Tensor:
        return self.wanted[rows]


def test_the_divergence_is_kl_from_teacher_to_student_a_query() -> None:
    found = torch.tensor([[0.0, 0.0]])  # 1/2 and 1/2
    wanted = torch.log(torch.tensor([[0.75, 0.25]]))
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert divergence(found, wanted).item() == pytest.approx(expected, abs=1e-6)


def test_where_the_teacher_has_no_opinion_neither_value_nor_gradient_depends_on_the_student() -> None:
    wanted = torch.tensor([[1.0, NAN, 0.0], [NAN, 2.0, NAN]])
    found = torch.tensor([[0.5, 3.0, 0.0], [1.0, 2.0, 3.0]], requires_grad=True)
    value = divergence(found, wanted)
    value.backward()
    assert found.grad is not None
    # The first query's two known candidates; the second has one, of which both are sure.
    p, q = 1 / (1 + math.exp(-1.0)), 1 / (1 + math.exp(-0.5))
    kl = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert value.item() == pytest.approx(kl / 2, abs=1e-6)
    expected = torch.tensor([[q - p, 0.0, p - q], [0.0, 0.0, 0.0]]) / 2
    torch.testing.assert_close(found.grad, expected, atol=1e-6, rtol=0)


def test_the_teachers_term_is_weighted_and_tempered_and_reads_the_rows_of_the_batch() -> None:
    queries, positives = torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # Cosines are 1 and 0, divided by 0.5. The teacher's scores of rows 2 and 0, divided by 0.25: 1 and 0, and 0 and 0.
    teacher = Fixed(torch.tensor([[0.0, 0.0], [9.0, 9.0], [0.25, 0.0]]))
    lesson = Lesson(teacher, weight=3.0, temperature=0.25)
    loss: Any = ranking_loss(nn.Identity(), 0.5, lesson)  # type: ignore[arg-type]
    found = loss.compute_loss_from_embeddings([queries, positives], torch.tensor([2, 0]))
    s, t = 1 / (1 + math.exp(-2.0)), 1 / (1 + math.exp(-1.0))  # of the positive: student's, first teacher's
    first = t * math.log(t / s) + (1 - t) * math.log((1 - t) / (1 - s))
    second = 0.5 * math.log(0.5 / s) + 0.5 * math.log(0.5 / (1 - s))
    assert found.item() == pytest.approx(-math.log(s) + 3 * (first + second) / 2, abs=1e-6)
