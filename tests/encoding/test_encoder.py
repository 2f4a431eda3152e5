"""Every backend gives the vectors of sentence-transformers, for any batches."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effir.encoding.backends import open_encoder
from effir.encoding.encoder import CHUNK, TextEncoder
from effir.encoding.pytorch import torch_encoder
from effir.encoding.text_reader import TextReader
from effir.errors import EffirError, MissingError
from effir.model.checkpoint import load_model
from effir.model.retriever import encode_documents, encode_queries, open_retriever
from tests.encoding.conftest import TEXTS

pytestmark = pytest.mark.usefixtures("one_thread")

CUTS = {
    "uncompressed": (),
    "the last MLP dropped": (("mlp", [2]),),
    "the last attention dropped": (("attention", [2]),),
    "the last block dropped": (("block", [2]),),
    "all attentions dropped": (("attention", [0, 1, 2]),),
}


def test_texts_are_read_as_sentence_transformers_reads_them(retriever: Callable[..., Path]) -> None:
    folder = retriever()
    reader, model = TextReader.open(folder), open_retriever(folder)
    for prompt in ("query", "document"):
        for text, ids in zip(TEXTS, reader.read(TEXTS, prompt), strict=True):
            features = model.preprocess([model.prompts[prompt] + text])
            assert ids == features["input_ids"][0].tolist()
            assert len(ids) <= 16
    in_memory = TextReader.of(model)
    assert in_memory.read(TEXTS, "query") == reader.read(TEXTS, "query")
    assert (in_memory.pooling, in_memory.max_tokens) == (reader.pooling, reader.max_tokens) == ("last", 16)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_batches_side_by_side_give_the_vectors_of_one_thread(retriever: Callable[..., Path], pooling: str) -> None:
    texts = [f"{'long ' * (i % 7)}{i}" for i in range(200)]
    folder = retriever(pooling)
    expected = open_encoder(folder, "torch", "float32", 64).documents(texts)
    torch.set_num_threads(2)  # the fixture one_thread sets it back
    found = open_encoder(folder, "torch", "float32", 64).documents(texts)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_mean_tokens_counts_eos_and_truncation(retriever: Callable[..., Path]) -> None:
    # BOS, "d: ", 3 bytes and EOS are 8; the longer text is truncated to 16: their mean is 12.
    assert TextReader.open(retriever()).mean_tokens(["abc", TEXTS[1]]) == 12


def test_texts_that_are_truncated_or_not_read_at_all_are_told(retriever: Callable[..., Path]) -> None:
    reader = TextReader.open(retriever())
    # BOS, "d: " and EOS leave 11 of 16 tokens; a token is a byte here.
    texts = ["", "12345678901", "123456789012", "中文中", "中文中文"]
    assert list(reader.cut(texts, "document")) == [False, False, True, False, True]
    assert reader.unread(["a", "", "b"], "document") == [1]


def test_a_text_without_tokens_is_refused_and_gets_no_zero_vector(retriever: Callable[..., Path]) -> None:
    encoder = open_encoder(retriever("mean", document_prompt="", eos=False), "torch", "float32", 1000)
    encoder.reader.tokenizer.post_processor = None  # type: ignore[assignment]  # no BOS: as a base model's own tokenizer
    with pytest.raises(EffirError, match="a text has no token for this model, so it has no vector"):
        encoder.documents(["abc", ""])


@pytest.mark.parametrize("budget", [1, 40, 1000])
@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("drop", CUTS.values(), ids=CUTS)
def test_torch_gives_the_vectors_of_sentence_transformers(
    retriever: Callable[..., Path], drop: Any, pooling: str, budget: int
) -> None:
    folder = retriever(pooling, drop)
    encoder, model = open_encoder(folder, "torch", "float32", budget), open_retriever(folder)
    np.testing.assert_allclose(encoder.documents(TEXTS), encode_documents(model, TEXTS, 2), atol=2e-6)
    np.testing.assert_allclose(encoder.queries(TEXTS), encode_queries(model, TEXTS, 2), atol=2e-6)


def test_bfloat16_gives_unit_vectors_close_to_those_of_float32(retriever: Callable[..., Path]) -> None:
    folder = retriever("mean")
    exact, rounded = (open_encoder(folder, "torch", p, 64).documents(TEXTS) for p in ("float32", "bfloat16"))
    assert rounded.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rounded, axis=1), 1, atol=1e-6)
    # bfloat16 has 8 bits: a relative error of up to 2^-9 at each of some dozens of operations.
    assert (exact * rounded).sum(axis=1).min() > 0.99
    assert not np.array_equal(exact, rounded)


def test_bfloat16_does_not_round_the_frequencies_of_positions(retriever: Callable[..., Path]) -> None:
    decoders = [load_model(retriever())[0] for _ in range(2)]
    before = decoders[0].rotary_emb.inv_freq.clone()
    torch_encoder(decoders[0], TextReader.open(retriever()), "bfloat16", 64)
    # 8 bits of a frequency of 0.1 or so would be a quarter turn off after some thousand tokens.
    assert decoders[0].rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(decoders[0].rotary_emb.inv_freq, before)
    assert decoders[0].embed_tokens.weight.dtype == torch.bfloat16


def test_no_texts_are_refused(retriever: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="no texts"):
        open_encoder(retriever(), "torch", "float32", 64).documents([])


def test_more_texts_than_a_chunk_keep_their_order(retriever: Callable[..., Path]) -> None:
    encoder = open_encoder(retriever(), "torch", "float32", 256)
    texts = [f"{number} {'x' * (number % 7)}" for number in range(CHUNK + 9)]
    found = encoder.documents(texts)
    some = [0, 1, CHUNK - 1, CHUNK, CHUNK + 8]
    np.testing.assert_allclose(found[some], encoder.documents([texts[row] for row in some]), atol=2e-6)


def watched(retriever: Path, budget: int) -> tuple[TextEncoder, list[tuple[int, int]]]:
    """Return an encoder that only records the shapes of its batches."""
    seen = list[tuple[int, int]]()

    def forward(batches: Any) -> Any:
        seen.extend(tokens.shape for tokens, _ in batches)
        return [np.zeros((len(tokens), 2), np.float32) for tokens, _ in batches]

    return TextEncoder(TextReader.open(retriever), forward, budget), seen


def test_a_batch_never_exceeds_its_budget(retriever: Callable[..., Path]) -> None:
    encoder, seen = watched(retriever(), 40)
    encoder.documents(TEXTS * 5)
    sizes = [count * width for count, width in seen]
    assert max(sizes) <= 40
    assert sum(sizes) < 1.2 * sum(map(len, encoder.reader.read(TEXTS * 5, "document")))


def test_a_small_batch_has_one_of_few_shapes_and_warm_prepares_them(retriever: Callable[..., Path]) -> None:
    encoder, seen = watched(retriever(), 1000)
    for count in (1, 2, 3):
        for text in TEXTS:
            encoder.queries([text] * count)
    used = set(seen)
    assert {width for _, width in used} <= {8, 16}
    seen.clear()
    encoder.warm(3, 16)
    assert used <= set(seen)
    assert len(seen) == 6
    seen.clear()
    encoder.warm(3, 16, seconds=-1)
    assert not seen
    encoder.few = 4  # up to four are encoded one by one
    encoder.warm(3, 16)
    assert seen == [(1, 8), (1, 16), (5, 8), (5, 16)]


def test_an_unsupported_pooling_is_refused(retriever: Callable[..., Path]) -> None:
    folder = retriever()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": "cls"}))
    with pytest.raises(EffirError, match="pooling 'cls' is not supported: use lasttoken or mean"):
        TextReader.open(folder)


def test_torch_does_not_support_int8(retriever: Callable[..., Path]) -> None:
    with pytest.raises(EffirError, match="torch backend does not support int8: use the openvino backend"):
        open_encoder(retriever(), "torch", "int8", 64)


def test_a_missing_retriever_and_a_missing_graph_are_named(retriever: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"nowhere/modules\.json is missing"):
        open_encoder(tmp_path / "nowhere", "torch", "float32", 64)
    with pytest.raises(MissingError, match=r"int8/model\.xml is missing"):
        open_encoder(retriever(), "openvino", "int8", 64)


def test_the_progress_moves_with_every_batch_and_counts_every_text(retriever: Callable[..., Path]) -> None:
    encoder, seen = watched(retriever(), 40)
    reported: list[int] = []
    encoder.documents(TEXTS * 5, report=reported.append)
    assert reported == [count for count, _ in seen]
    assert sum(reported) == len(TEXTS) * 5
    assert len(reported) > 5


@pytest.mark.parametrize("text", TEXTS)
def test_a_truncated_text_gives_the_same_tokens(retriever: Callable[..., Path], text: str) -> None:
    reader = TextReader.open(retriever())
    kept = reader.truncated(text, "document")
    assert text.startswith(kept)
    assert reader.read([kept], "document") == reader.read([text], "document")
    assert (kept == text) == (len(text.encode()) <= 11)  # of 16 tokens, BOS, EOS and "d: " take five


def test_opening_a_model_draws_no_bar(retriever: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    load_model(retriever())
    open_retriever(retriever())
    assert capsys.readouterr().err == ""
