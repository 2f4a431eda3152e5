"""The passage of a text that matches a query best."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from effir.encoding.encoder import Batch, TextEncoder, Vectors
from effir.encoding.text_reader import TextReader
from effir.serve.snippets import best_passages, passages_of

SENTENCES = [" ".join([letter] * 20) + "." for letter in "abcde"]  # of 20 words: two do not fit into one passage


@pytest.fixture
def encoder(tiny_checkpoint: Callable[[bool], Path]) -> TextEncoder:
    """Encodes a text as the share of each byte; the last token, EOS, does not count."""
    from effir.model.retriever import build_retriever

    model = build_retriever(
        tiny_checkpoint(True), pooling="last", query_prompt="q: ", document_prompt="d: ", max_tokens=130
    )
    return TextEncoder(TextReader.of(model), shares, 4096)


def shares(batches: Sequence[Batch]) -> list[Vectors]:
    found = []
    for tokens, lengths in batches:
        rows = [np.bincount(row[:length], minlength=300) for row, length in zip(tokens, lengths, strict=True)]
        found.append(np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32))
    return found


def test_the_passage_with_the_highest_cosine_is_returned_for_each_text(encoder: TextEncoder) -> None:
    (query,) = encoder.queries(["b b b b"])
    texts = [" ".join(SENTENCES), f"{SENTENCES[1]}\n{SENTENCES[0]}", "one short text", ""]
    assert best_passages(encoder, query, texts) == [SENTENCES[1], SENTENCES[1], "one short text", ""]


def test_only_what_the_encoder_reads_can_match(encoder: TextEncoder) -> None:
    # 130 tokens are BOS, "d: ", 125 bytes of text and EOS: three sentences of 40 bytes, two spaces, and " d ".
    assert passages_of(encoder, " ".join(SENTENCES)) == [*SENTENCES[:2], f"{SENTENCES[2]} d"]


def test_sentences_of_a_script_without_spaces_are_passages(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effir.serve.snippets.WORDS", 10)
    first, second = "数" * 14 + "。", "组" * 14 + "。"  # each counts as 8 words
    assert passages_of(encoder, first + second) == [first, second]


def test_texts_of_one_passage_are_not_encoded(encoder: TextEncoder) -> None:
    encoder.forward = lambda batches: pytest.fail("nothing has to be encoded")
    assert best_passages(encoder, np.zeros(300, np.float32), ["a", "two words"]) == ["a", "two words"]
