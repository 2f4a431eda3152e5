"""Hard negatives are hard and not answers, and come with the teacher's outputs for them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from effir.data.examples import Example
from effir.errors import EffirError
from effir.model.retriever import encode_documents, encode_queries
from effir.training.hard_negatives import safe_negatives, with_hard_negatives
from effir.training.teacher import Outputs, load_teacher, write_no_teacher
from tests.training.conftest import EXAMPLES, ROUNDED, Cached

pytestmark = pytest.mark.usefixtures("one_thread")


def test_negatives_that_may_be_answers_come_last() -> None:
    # The positive has 0.8. Negatives 2 and 3 are below 0.8 - 0.1; then come the lowest of the others, 0.75 and 0.9.
    own = np.array([[0.8, 0.75, 0.6, 0.1, 0.9]], dtype=np.float32)

    def kept(margin: float, count: int) -> list[int]:
        (columns,) = safe_negatives(own, margin, count).tolist()
        return columns

    assert kept(0.1, 1) == [0, 2]
    assert kept(0.1, 2) == [0, 2, 3]
    assert kept(0.1, 3) == [0, 2, 3, 1]
    assert kept(0.1, 4) == [0, 2, 3, 1, 4]
    assert kept(0.0, 3) == [0, 1, 2, 3]
    assert kept(0.1, 0) == [0]


def test_a_teacher_mines_its_nearest_documents_except_answers(bi_encoder: Path, cached: Cached, tmp_path: Path) -> None:
    cached(bi_encoder)
    # By this margin all negatives are safe.
    chosen, teacher = with_hard_negatives(tmp_path / "cached", EXAMPLES, -2.0, 3, "teacher")
    assert teacher is not None
    everything = ["the first", "a second", "a third", "also first", "a fourth"]
    model = SentenceTransformer(str(bi_encoder))
    scores = encode_queries(model, ["first?", "second?"], 2) @ encode_documents(model, everything, 2).T
    for example, row, answers in zip(
        chosen, (0, 1, 0), (("the first", "also first"), ("a second",), ("the first", "also first")), strict=True
    ):
        ranked = [everything[i] for i in np.argsort(-scores[row]) if everything[i] not in answers]
        assert len(example.negatives) == 3
        assert not set(example.negatives) & set(answers)
        # Neighbours whose scores differ by less than the rounding may swap.
        wanted = scores[row, [everything.index(text) for text in ranked[:3]]]
        np.testing.assert_allclose(
            scores[row, [everything.index(t) for t in example.negatives]], wanted, atol=2 * ROUNDED
        )
    # The returned teacher has their scores.
    documents = [chosen[1].positive, *chosen[1].negatives]
    expected = encode_queries(model, ["second?"], 1) @ encode_documents(model, documents, 2).T
    np.testing.assert_allclose(teacher.own_scores[1], expected[0], atol=ROUNDED)


def test_a_cross_encoder_cannot_mine(cross_encoder: Path, cached: Cached, tmp_path: Path) -> None:
    cached(cross_encoder)
    with pytest.raises(EffirError, match=r"cannot search: set training\.miner to bm25"):
        with_hard_negatives(tmp_path / "cached", EXAMPLES, 0.0, 1, "teacher")


def test_the_teacher_of_chosen_negatives_scores_those_and_no_others(
    bi_encoder: Path, cached: Cached, tmp_path: Path
) -> None:
    cached(bi_encoder)
    full = load_teacher(tmp_path / "cached", EXAMPLES)
    assert full is not None
    chosen, teacher = with_hard_negatives(tmp_path / "cached", EXAMPLES, -2.0, 1)  # all are safe: the first stay
    assert teacher is not None
    assert [example.negatives for example in chosen] == [example.negatives[:1] for example in EXAMPLES]
    np.testing.assert_allclose(teacher.own_scores, full.own_scores[:, :2], atol=1e-6)
    np.testing.assert_allclose(np.diag(teacher.scores(torch.arange(3))[:, :3]), full.own_scores[:, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "miner"), [("bi_encoder", "bm25"), ("bi_encoder", "teacher"), ("cross_encoder", "bm25")]
)
def test_the_teacher_is_loaded_once_and_gives_what_a_second_load_would(
    request: pytest.FixtureRequest,
    cached: Cached,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    miner: Any,
) -> None:
    cached(request.getfixturevalue(kind))
    loads = list[int]()

    def counted(folder: Path, examples: list[Example]) -> Outputs | None:
        loads.append(len(examples))
        return load_teacher(folder, examples)

    monkeypatch.setattr("effir.training.hard_negatives.load_teacher", counted)
    chosen, teacher = with_hard_negatives(tmp_path / "cached", EXAMPLES, 0.05, 1, miner)
    again = load_teacher(tmp_path / "cached", chosen)
    assert loads == [3]
    assert teacher is not None
    assert again is not None
    rows = torch.tensor([2, 0, 1])
    assert torch.equal(teacher.scores(rows).nan_to_num(), again.scores(rows).nan_to_num())
    np.testing.assert_array_equal(teacher.own_scores, again.own_scores)


def test_without_a_teacher_the_first_negatives_are_taken(tmp_path: Path) -> None:
    write_no_teacher(tmp_path / "cached")
    chosen, teacher = with_hard_negatives(tmp_path / "cached", EXAMPLES, 0.0, 1)
    assert teacher is None
    assert [example.negatives for example in chosen] == [example.negatives[:1] for example in EXAMPLES]
