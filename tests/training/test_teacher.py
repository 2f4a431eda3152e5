"""Cached outputs are those of the right texts in the right order, and of no others."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from effir.data.examples import Example
from effir.errors import EffirError
from effir.model.retriever import encode_documents, encode_queries
from effir.training.teacher import load_teacher, write_no_teacher
from tests.training.conftest import EXAMPLES, ROUNDED, Cached

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_bi_encoder_scores_every_document_of_the_batch_in_the_order_of_the_loss(
    bi_encoder: Path, cached: Cached, tmp_path: Path
) -> None:
    assert cached(bi_encoder) == "bi-encoder"
    teacher = load_teacher(tmp_path / "cached", EXAMPLES)
    assert teacher is not None
    found = teacher.scores(torch.tensor([2, 1]))
    model = SentenceTransformer(str(bi_encoder))
    # The batch is examples 2 and 1: positives of both, then their first negatives, then their second.
    documents = ["also first", "a second", "a third", "the first", "a second", "a fourth"]
    expected = encode_queries(model, ["first?", "second?"], 2) @ encode_documents(model, documents, 2).T
    assert found.shape == (2, 6)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=ROUNDED)
    vectors = teacher.vectors(torch.tensor([2, 1]))
    np.testing.assert_allclose(vectors[:2], encode_queries(model, ["first?", "second?"], 2), atol=ROUNDED)
    np.testing.assert_allclose(vectors[2:], encode_documents(model, documents, 2), atol=ROUNDED)


def test_a_cross_encoder_scores_a_query_s_own_documents_and_no_others(
    cross_encoder: Path, cached: Cached, tmp_path: Path
) -> None:
    kind = cached(cross_encoder)
    assert kind == "cross-encoder"
    teacher = load_teacher(tmp_path / "cached", EXAMPLES)
    assert teacher is not None
    found = teacher.scores(torch.tensor([0, 1]))
    judge = CrossEncoder(str(cross_encoder), max_length=64)
    own = judge.predict(
        [("first?", "the first"), ("first?", "a second"), ("first?", "a third")], activation_fn=torch.nn.Identity()
    )
    np.testing.assert_allclose(found[0, [0, 2, 4]].numpy(), own, atol=1e-5)
    assert torch.isnan(found[0, [1, 3, 5]]).all()
    assert torch.isnan(found[1, [0, 2, 4]]).all()
    assert not torch.isnan(found[1, [1, 3, 5]]).any()
    with pytest.raises(EffirError, match="a cross-encoder has no vectors to distil"):
        teacher.vectors(torch.tensor([0]))


def test_the_outputs_serve_examples_with_fewer_negatives(bi_encoder: Path, cached: Cached, tmp_path: Path) -> None:
    cached(bi_encoder)
    fewer = [Example(e.query, e.positive, e.negatives[:1]) for e in EXAMPLES]
    some, all_ = (load_teacher(tmp_path / "cached", examples) for examples in (fewer, EXAMPLES))
    assert some is not None
    assert all_ is not None
    rows = torch.tensor([0, 1])
    torch.testing.assert_close(some.scores(rows), all_.scores(rows)[:, :4])


def test_without_a_teacher_there_are_no_outputs(tmp_path: Path) -> None:
    write_no_teacher(tmp_path / "cached")
    assert load_teacher(tmp_path / "cached", EXAMPLES) is None


def test_texts_that_were_not_scored_are_one_sentence(bi_encoder: Path, cached: Cached, tmp_path: Path) -> None:
    cached(bi_encoder)
    with pytest.raises(EffirError, match="has no teacher scores of some training texts"):
        load_teacher(tmp_path / "cached", [Example("new?", "the first", ())])
