"""A teacher scores each text once, in the encoder that reads it rightly, and a killed run continues."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense

from effir.data.examples import Example
from effir.encoding.backends import open_encoder
from effir.encoding.encoder import TextEncoder
from effir.encoding.library import LibraryEncoder
from effir.errors import EffirError
from effir.files import write_json
from effir.model.retriever import encode_documents
from effir.training.teacher import load_teacher
from effir.training.teacher_cache import SHARD, cache_teacher_scores, kind_of
from tests.training.conftest import EXAMPLES, ROUNDED, Cached

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


def test_our_own_models_run_in_our_encoder_and_others_in_sentence_transformers(
    bi_encoder: Path, cached: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not isinstance(open_encoder(bi_encoder, "torch", "float32", 64), LibraryEncoder)
    cached(bi_encoder, "ours")
    monkeypatch.chdir(tmp_path)  # away from what was found out about this folder
    monkeypatch.setattr("effir.encoding.self_check.unsupported", lambda folder: "a test wants it so")
    cached(bi_encoder, "theirs")
    one, other = (load_teacher(tmp_path / name, EXAMPLES) for name in ("ours", "theirs"))
    assert one is not None
    assert other is not None
    # bfloat16, where the processor has it, against float32
    torch.testing.assert_close(one.scores(torch.arange(3)), other.scores(torch.arange(3)), atol=2e-2, rtol=0)


def add_a_dense_layer(folder: Path) -> None:
    model = SentenceTransformer(str(folder))
    transformer, pooling, normalize = model
    size = pooling.get_embedding_dimension()
    torch.manual_seed(3)
    modules = [transformer, pooling, Dense(size, 8), normalize]
    SentenceTransformer(modules=modules, prompts=model.prompts).save_pretrained(str(folder), create_model_card=False)


def make_bidirectional(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "is_causal": False})


@pytest.mark.parametrize("other", [add_a_dense_layer, make_bidirectional])
def test_a_decoder_that_our_encoder_would_read_wrongly_runs_in_sentence_transformers(
    bi_encoder: Path, cached: Cached, tmp_path: Path, other: Callable[[Path], None]
) -> None:
    other(bi_encoder)
    assert isinstance(open_encoder(bi_encoder, "torch", "float32", 64), LibraryEncoder)
    cached(bi_encoder)
    expected = encode_documents(SentenceTransformer(str(bi_encoder)), ["also first"], 1)
    teacher = load_teacher(tmp_path / "cached", EXAMPLES)
    assert teacher is not None
    np.testing.assert_allclose(teacher.vectors(torch.tensor([2]))[1:2], expected, atol=ROUNDED)


def test_a_cross_encoder_that_sentence_transformers_saved_is_recognised(cross_encoder: Path, tmp_path: Path) -> None:
    CrossEncoder(str(cross_encoder)).save_pretrained(str(tmp_path / "saved"))
    assert (tmp_path / "saved/modules.json").exists()  # as a bi-encoder has
    assert kind_of(tmp_path / "saved") == kind_of(cross_encoder) == "cross-encoder"


def test_a_classifier_of_several_classes_is_refused(cross_encoder: Path) -> None:
    config = json.loads((cross_encoder / "config.json").read_text(encoding="utf-8"))
    write_json(cross_encoder / "config.json", {**config, "id2label": {"0": "no", "1": "yes"}})
    with pytest.raises(EffirError, match="is a classifier of several classes"):
        kind_of(cross_encoder)


def test_a_killed_run_continues_after_its_last_shard(
    bi_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = [Example(f"{i}?", f"number {i}", ()) for i in range(SHARD + 3)]
    read: list[int] = []
    usual = TextEncoder._encode

    def encode(self: TextEncoder, texts: Sequence[str], prompt: str, report: Callable[[int], object]) -> object:
        read.append(len(texts))
        if len(read) == 4:
            raise KeyboardInterrupt
        return usual(self, texts, prompt, report)

    monkeypatch.setattr(TextEncoder, "_encode", encode)
    for expected in (KeyboardInterrupt, None):
        if expected:
            with pytest.raises(expected):
                cache_teacher_scores(
                    "here", bi_encoder, examples, tmp_path / "cached", max_tokens=16, work=tmp_path / "work"
                )
            assert not (tmp_path / "cached").exists()
        else:
            cache_teacher_scores(
                "here", bi_encoder, examples, tmp_path / "cached", max_tokens=16, work=tmp_path / "work"
            )
    assert read == [SHARD, 3, SHARD, 3, 3]  # queries, documents and the kill; then what was missing
    assert load_teacher(tmp_path / "cached", examples) is not None
    assert not (tmp_path / "work").exists()


def test_a_model_that_cannot_be_a_teacher_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "llm").mkdir()
    write_json(tmp_path / "llm/config.json", {"architectures": ["LlamaForCausalLM"]})
    with pytest.raises(EffirError, match="cannot be a teacher: name a sentence-transformers folder"):
        cache_teacher_scores(
            "here", tmp_path / "llm", EXAMPLES, tmp_path / "cached", max_tokens=32, work=tmp_path / "work"
        )
    assert not (tmp_path / "cached").exists()


def test_the_files_and_the_manifest_name_the_source(bi_encoder: Path, tmp_path: Path) -> None:
    cache_teacher_scores(
        "wheel:x==1/y", bi_encoder, EXAMPLES, tmp_path / "cached", max_tokens=32, work=tmp_path / "work"
    )
    kept = json.loads((tmp_path / "cached/teacher.json").read_text(encoding="utf-8"))
    assert kept == {"source": "wheel:x==1/y", "kind": "bi-encoder", "max_tokens": 32}
    files = {"teacher.json", "queries.npy", "queries.txt", "documents.npy", "documents.txt"}
    assert {path.name for path in (tmp_path / "cached").iterdir()} == files
