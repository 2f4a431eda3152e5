"""Two threads give the values and gradients of one, each time the same bytes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from effir.cpu.thread_parallel import map_on_cores, side_by_side, workers
from effir.model.retriever import build_retriever
from effir.training.distillation import HiddenStateLoss
from effir.training.losses import ranking_loss
from effir.training.trainer import Adapters, add_adapters

QUERIES = ["a", "bc" * 30, "def", "x" * 50, "why", "how", "v" * 20, "who", "u" * 9]
DOCUMENTS = ["the first" * 5, "no", "a third one", "y" * 60, "z", "yes", "r" * 33, "s" * 12, "t"]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model(tiny_checkpoint: Callable[[bool], Path]) -> SentenceTransformer:
    made = build_retriever(tiny_checkpoint(False), pooling="last", query_prompt="", document_prompt="", max_tokens=64)
    add_adapters(made, Adapters(rank=4, alpha=8.0, dropout=0.0), seed=0)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:  # which begin as zeros: without this half of the gradients are zero
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    return made


def loss_and_gradients(model: SentenceTransformer, loss: Any) -> list[Tensor]:
    model.zero_grad()
    value = loss([dict(model.preprocess(texts)) for texts in (QUERIES, DOCUMENTS)], None)
    value.backward()
    return [value.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("kind", ["ranking", "hidden states"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_threads_give_the_loss_and_the_gradients_of_one(
    model: SentenceTransformer, tiny_checkpoint: Callable[[bool], Path], kind: str, dtype: torch.dtype
) -> None:
    teacher = build_retriever(tiny_checkpoint(True), pooling="last", query_prompt="", document_prompt="", max_tokens=64)
    loss = ranking_loss(model, 0.1) if kind == "ranking" else HiddenStateLoss(model, teacher, "float32")
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        assert workers(model, 9) == 2
        found, again = loss_and_gradients(model, loss), loss_and_gradients(model, loss)
        torch.set_num_threads(1)
        assert workers(model, 9) == 1
        expected = loss_and_gradients(model, loss)
    assert len(found) == len(expected) > 10
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
    near = 1e-5 if dtype == torch.float32 else 5e-2
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=near * other.abs().max().item(), rtol=near)


@pytest.mark.usefixtures("two_threads")
def test_dropout_and_a_model_that_does_not_train_keep_one_thread(model: SentenceTransformer) -> None:
    assert workers(nn.Sequential(model, nn.Dropout(0.1)), 9) == 1
    with torch.no_grad():
        assert workers(model, 9) == 1
    assert workers(model.requires_grad_(False), 9) == 1


@pytest.mark.usefixtures("two_threads")
def test_a_share_has_four_texts_or_more(model: SentenceTransformer) -> None:
    assert [workers(model, texts) for texts in (1, 7, 8, 99)] == [1, 1, 2, 2]


@pytest.mark.usefixtures("two_threads")
def test_items_are_computed_a_core_each_where_that_helps() -> None:
    def where(item: int) -> tuple[int, bool, int]:
        return item, current_thread() is main_thread(), torch.get_num_threads()

    cpu = torch.device("cpu")
    assert list(map_on_cores(where, range(5), cpu)) == [(item, False, 1) for item in range(5)]
    assert list(map_on_cores(where, [7], cpu)) == [(7, True, 2)]  # one item alone takes both cores
    assert list(map_on_cores(where, range(5), torch.device("cuda"))) == [(item, True, 2) for item in range(5)]
    torch.set_num_threads(1)
    assert list(map_on_cores(where, range(5), cpu)) == [(item, True, 1) for item in range(5)]


@pytest.mark.parametrize(("cores", "count", "each"), [(2, 2, 1), (4, 2, 2), (2, 3, 1)])
@pytest.mark.usefixtures("two_threads")
def test_the_threads_share_the_cores_and_others_compute_as_before(cores: int, count: int, each: int) -> None:
    torch.set_num_threads(cores)
    assert set(side_by_side(count).map(lambda _: torch.get_num_threads(), range(8))) == {each}
    assert torch.get_num_threads() == cores
