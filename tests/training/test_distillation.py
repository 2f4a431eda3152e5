from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from effir.compress.cut import cut_checkpoint
from effir.model.retriever import build_retriever, encode_documents
from effir.model.shape import shape_of
from effir.training.distillation import HiddenStateLoss, distill
from tests.training.test_trainer import ADAPTERS, EXAMPLES, assert_same, job, weights

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


@pytest.fixture
def retriever(tiny_checkpoint: Callable[[bool], Path]) -> Callable[[], SentenceTransformer]:
    return lambda: build_retriever(
        tiny_checkpoint(False), pooling="mean", query_prompt="q: ", document_prompt="", max_tokens=32
    )


class Fixed(torch.nn.Module):
    """Gives the same states to whatever it reads, as many as it reads."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        missing = features["attention_mask"].shape[1] - self.states.shape[1]
        return {"token_embeddings": torch.nn.functional.pad(self.states, (0, 0, 0, missing), value=7.0)}


def test_the_hidden_state_loss_is_one_minus_cos_over_the_real_tokens_of_all_columns() -> None:
    found = Fixed(torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]).expand(2, -1, -1))
    wanted = Fixed(torch.tensor([[[0.0, 3.0], [1.0, 1.0]]]).expand(2, -1, -1))
    # cos: 0 and 1 / sqrt(2). Of two texts in one bucket the first has both tokens, the second ends with padding.
    columns = [{"attention_mask": torch.tensor([[1, 1], [1, 0]])}]
    loss: Any = HiddenStateLoss(found, wanted, "float32")  # type: ignore[arg-type]
    assert loss(columns, None).item() == pytest.approx((1 + (1 - 2**-0.5) + 1) / 3, abs=1e-6)
    assert [name for name, _ in loss.named_modules() if name] == ["model"]  # the teacher neither trains nor is saved


def test_distilling_brings_a_cut_model_nearer_to_its_teacher_and_does_not_train_the_teacher(
    retriever: Callable[[], SentenceTransformer], tiny_checkpoint: Callable[[bool], Path], tmp_path: Path
) -> None:
    uncompressed = tiny_checkpoint(False)
    cut_checkpoint(uncompressed, tmp_path / "cut", shape_of(uncompressed).without("block", [1]))
    model = build_retriever(tmp_path / "cut", pooling="mean", query_prompt="q: ", document_prompt="", max_tokens=32)
    teacher, texts = retriever(), [example.positive for example in EXAMPLES]
    wanted = encode_documents(teacher, texts, 8)
    before = (encode_documents(model, texts, 8) * wanted).sum(axis=1).mean()
    curve = distill(model, teacher, EXAMPLES, ADAPTERS, job(tmp_path / "work", steps=40, checkpoint_every=20))
    after = (encode_documents(model, texts, 8) * wanted).sum(axis=1).mean()
    assert curve[-1]["loss"] < curve[0]["loss"] / 2
    assert 1 - after < (1 - before) / 2
    np.testing.assert_allclose(encode_documents(teacher, texts, 8), wanted, atol=2e-6)  # prepacked


def test_no_steps_distil_nothing(retriever: Callable[[], SentenceTransformer], tmp_path: Path) -> None:
    model, teacher = retriever(), retriever()
    before = weights(model)
    assert distill(model, teacher, EXAMPLES, ADAPTERS, job(tmp_path / "work", steps=0)) == []
    assert_same(weights(model), before)
