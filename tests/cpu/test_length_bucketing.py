import random
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from effir.cpu.length_bucketing import ByLength, buckets, partition
from effir.model.retriever import build_retriever
from effir.training.losses import cosine, ranking_loss

pytestmark = pytest.mark.usefixtures("one_thread")

# One token a byte: lengths so far apart that no cost of a forward keeps them in one bucket.
SHORT, LONG = ["a", "bc", "d"], ["x" * 150, "y" * 140]
QUERIES = [LONG[0], SHORT[0], SHORT[1], LONG[1], SHORT[2]]
DOCUMENTS = [SHORT[1], SHORT[2], LONG[1], LONG[0], SHORT[0]]


@pytest.fixture
def model(tiny_checkpoint: Callable[[bool], Path]) -> SentenceTransformer:
    return build_retriever(tiny_checkpoint(False), pooling="last", query_prompt="", document_prompt="", max_tokens=256)


def cost(lengths: list[int], sizes: list[int], extra: int) -> int:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return sum(size * lengths[end - 1] + extra for size, end in zip(sizes, ends, strict=True))


def all_partitions(count: int) -> list[list[int]]:
    found = []
    for cuts in range(count):
        for places in combinations(range(1, count), cuts):
            edges = [0, *places, count]
            found.append([edges[i + 1] - edges[i] for i in range(len(edges) - 1)])
    return found


def test_no_other_partition_into_powers_of_two_costs_less() -> None:
    random.seed(0)
    possible = [sizes for sizes in all_partitions(7) if set(sizes) <= {1, 2, 4}]
    for _ in range(50):
        lengths, extra = sorted(random.choices(range(1, 60), k=7)), random.randrange(80)
        chosen = partition(lengths, extra)
        assert chosen in possible
        assert cost(lengths, chosen, extra) == min(cost(lengths, sizes, extra) for sizes in possible)


def test_an_epoch_of_batches_has_few_shapes() -> None:
    random.seed(0)
    shapes, padded, real = set(), 0, 0
    for _ in range(60):
        lengths = torch.tensor([random.randint(3, 80) for _ in range(32)])
        mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        for _, bucket in buckets({"input_ids": mask, "attention_mask": mask}):
            shapes.add(tuple(bucket["input_ids"].shape))
            padded += bucket["input_ids"].numel()
            real += int(bucket["attention_mask"].sum())
    # 10 widths up to 80 tokens and 6 sizes up to 32 texts; a kernel is compiled for each shape that occurs.
    assert len(shapes) < 30
    assert padded < 1.4 * real


def test_buckets_hold_every_text_once_and_all_of_its_tokens(model: SentenceTransformer) -> None:
    features: Any = model.preprocess(QUERIES)
    found = list(buckets(features))
    assert [len(rows) for rows, _ in found] == [1, 2, 2]
    assert sorted(row for rows, _ in found for row in rows.tolist()) == [0, 1, 2, 3, 4]
    for rows, bucket in found:
        whole = features["attention_mask"][rows]
        assert bucket["attention_mask"].sum().item() == whole.sum().item()
        longest = int(whole.sum(dim=1).max())
        assert bucket["attention_mask"].shape[1] == -(-longest // 8) * 8
        assert torch.equal(bucket["input_ids"][:, :longest], features["input_ids"][rows, :longest])


def test_vectors_and_their_order_are_those_of_one_batch(model: SentenceTransformer) -> None:
    features: Any = model.preprocess(QUERIES)
    expected = model(dict(features))["sentence_embedding"]
    found = ByLength(model)(dict(features))["sentence_embedding"]
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_info_nce_and_its_gradients_are_those_of_whole_batches(model: SentenceTransformer) -> None:
    def loss_and_gradients(loss: Any) -> list[torch.Tensor]:
        model.zero_grad()
        value = loss([dict(model.preprocess(texts)) for texts in (QUERIES, DOCUMENTS)], None)
        value.backward()
        return [value.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    usual = MultipleNegativesRankingLoss(model, scale=10, similarity_fct=cosine)
    expected, found = loss_and_gradients(usual), loss_and_gradients(ranking_loss(model, temperature=0.1))
    assert len(found) == len(expected) > 10
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * other.abs().max().item(), rtol=1e-4)
