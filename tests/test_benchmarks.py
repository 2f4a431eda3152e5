"""What benchmarks say of memory, how they pool a small encoder, and what they draw."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import BertConfig, BertModel

from benchmarks.processes import apart, forget_peak, peak_memory
from benchmarks.small_encoders import front_plot
from benchmarks.two_engines import PooledEncoder, truncating
from effir.encoding.backends import open_encoder
from effir.model.retriever import build_retriever, save_retriever

asks_linux = pytest.mark.skipif(sys.platform != "linux", reason="benchmarks ask Linux for the peak")
pytestmark = pytest.mark.slow
BALLAST = 400_000_000


@asks_linux
def test_the_peak_is_in_bytes_and_stays_until_it_is_forgotten() -> None:
    ballast = bytearray(b"\x01") * BALLAST
    held = psutil.Process().memory_info().rss
    assert len(ballast) == BALLAST <= held
    del ballast
    assert 0.95 * held <= peak_memory() < psutil.virtual_memory().total
    forget_peak()
    assert peak_memory() < held - BALLAST / 2


@asks_linux
def test_a_process_apart_has_a_peak_of_its_own() -> None:
    ballast = bytearray(b"\x01") * BALLAST
    assert apart(peak_memory) < len(ballast) <= peak_memory()


def test_padding_does_not_change_the_mean_of_a_text_of_the_small_encoder() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    bert = BertModel(BertConfig(vocab_size=50, **sizes), add_pooling_layer=False).eval()
    model, texts = PooledEncoder(bert), [[5, 6, 7], [8, 9, 10, 11, 12]]
    with torch.inference_mode():
        together = model(torch.tensor([[5, 6, 7, 0, 0], texts[1]]), torch.tensor([3, 5]))
        for text, vector in zip(texts, together, strict=True):
            mean = bert(torch.tensor([text])).last_hidden_state[0].mean(dim=0)
            torch.testing.assert_close(vector, mean / mean.norm())


def test_the_front_of_small_encoders_goes_through_the_best_at_their_speed() -> None:
    def row(name: str, speed: float, ndcg: float) -> dict[str, object]:
        measured = {"document_speedup": {"median": speed}, "quality": {"docs": {"ndcg_at_10": ndcg}}}
        return {"name": name, "engine": "openvino", "ours": True, **measured}

    figure = front_plot([row("slow", 1.0, 0.7), row("worse", 1.5, 0.5), row("fast", 4.0, 0.6)], ["docs"])
    (axes,) = figure.axes
    assert axes.lines[0].get_xydata().tolist() == [[1.0, 0.7], [4.0, 0.6]]
    assert {text.get_text() for text in axes.texts} >= {"slow", "worse", "fast"}


def test_a_set_is_read_to_the_same_token_above_the_limit_of_a_folder(
    tiny_checkpoint: Callable[[bool], Path], tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"pooling": "last", "query_prompt": "", "document_prompt": "", "max_tokens": 16}
    save_retriever(build_retriever(tiny_checkpoint(False), **settings), folder := tmp_path / "retriever")
    encoder = open_encoder(folder, "torch", "float32", 1024)
    text, own = "word " * 200, encoder.reader.max_tokens
    assert len(encoder.reader.read([text], "document")[0]) == own
    assert len(truncating(encoder, own + 5).reader.read([text], "document")[0]) == own + 5
