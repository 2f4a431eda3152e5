"""Tiny retrievers as folders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from effir.compress.cut import cut_checkpoint
from effir.model.retriever import build_retriever, save_retriever
from effir.model.shape import shape_of

TEXTS = ["abc", "abcdefghijklmnopqrstuvwxyz", "", " naïve 中文 ", "ab cd"]


@pytest.fixture
def retriever(tiny_checkpoint: Callable[[bool], Path], tmp_path: Path) -> Callable[..., Path]:
    """Save a retriever of the tiny model, without the sublayers in ``drop``: ``("mlp", [1])``."""

    def make(pooling: str = "last", drop: Any = (), **settings: Any) -> Path:
        checkpoint = tiny_checkpoint(True)
        if drop:
            shape = shape_of(checkpoint)
            for sublayer, layers in drop:
                shape = shape.without(sublayer, layers)
            checkpoint, uncompressed = tmp_path / "cut", checkpoint
            cut_checkpoint(uncompressed, checkpoint, shape)
        defaults = {"query_prompt": "q: ", "document_prompt": "d: ", "max_tokens": 16}
        model = build_retriever(checkpoint, pooling=pooling, **{**defaults, **settings})  # type: ignore[arg-type]
        save_retriever(model, tmp_path / "retriever")
        return tmp_path / "retriever"

    return make
