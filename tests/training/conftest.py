"""A tiny bi-encoder, a tiny cross-encoder, and their cached outputs for a few examples."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from effir.data.examples import Example
from effir.model.retriever import build_retriever, save_retriever
from effir.training.teacher_cache import cache_teacher_scores

ROUNDED = 2e-2  # read in bfloat16, where the processor has it, and kept in float16
EXAMPLES = [
    Example("first?", "the first", ("a second", "a third")),
    Example("second?", "a second", ("the first", "a fourth")),
    Example("first?", "also first", ("a third", "a second")),
]
Cached = Callable[..., str]


@pytest.fixture
def bi_encoder(tiny_checkpoint: Callable[[bool], Path], tmp_path: Path) -> Path:
    model = build_retriever(
        tiny_checkpoint(False), pooling="mean", query_prompt="q: ", document_prompt="d: ", max_tokens=32
    )
    save_retriever(model, tmp_path / "bi")
    return tmp_path / "bi"


@pytest.fixture
def cross_encoder(tiny_checkpoint: Callable[[bool], Path], tmp_path: Path) -> Path:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(tiny_checkpoint(False), num_labels=1, initializer_range=0.3)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "cross")
    AutoTokenizer.from_pretrained(tiny_checkpoint(False)).save_pretrained(tmp_path / "cross")
    return tmp_path / "cross"


@pytest.fixture
def cached(tmp_path: Path) -> Cached:
    """Score EXAMPLES by the model of a folder into ``tmp_path / "cached"``, and return its kind."""

    def score(folder: Path, name: str = "cached") -> str:
        return cache_teacher_scores("here", folder, EXAMPLES, tmp_path / name, max_tokens=32, work=tmp_path / "work")

    return score
