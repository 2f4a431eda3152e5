"""A tiny random Llama with a byte tokenizer, saved as a checkpoint: real, and fast."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.pipeline.warm import warm_python

WORDS = ("<pad>", "<s>", "</s>")
HIDDEN, LAYERS, WIDTH = 16, 3, 32
EOS = 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the pipeline: begun last, its files would keep one process busy for minutes and the others idle."""
    items.sort(key=lambda item: "pipeline" not in item.path.parts)


def save_tokenizer(into: Path, bos: bool) -> None:
    """Save a tokenizer of one token a byte; with ``bos``, it begins each text with ``<s>``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate([*WORDS, *alphabet])}, merges=[]))
    tokenizer.add_special_tokens(list(WORDS))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(into)


def save_model(into: Path) -> None:
    """Save a Llama of three layers whose weights are large enough for its states to differ from token to token."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(WORDS) + 256,
        hidden_size=HIDDEN,
        intermediate_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=EOS,
        initializer_range=0.3,
    )
    LlamaModel(config).save_pretrained(into)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """Save the tiny checkpoint, once a session; its tokenizer begins texts with a BOS where asked for."""
    saved: dict[bool, Path] = {}

    def checkpoint(bos: bool = False) -> Path:
        if bos not in saved:
            saved[bos] = tmp_path_factory.mktemp("tiny")
            save_model(saved[bos])
            save_tokenizer(saved[bos], bos)
        return saved[bos]

    return checkpoint


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Run tiny models on one thread: more only wait for each other, and add in another order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A ``python`` that starts stages, DVC and effir's commands in a second; see pipeline/warm.py."""
    settings = {"HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}  # read by imports
    with warm_python(tmp_path_factory.mktemp("warm"), {**os.environ, **settings}) as python:
        yield python
