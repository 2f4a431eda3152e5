"""A sentence-transformers folder of any kind gives the library's own vectors, or is refused in one sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, StaticEmbedding, Transformer
from tokenizers import Tokenizer
from transformers import AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import effir.model.checkpoint  # noqa: F401  registers the cut architectures
from effir.encoding.backends import open_encoder, open_limited
from effir.encoding.library import LibraryEncoder, open_library
from effir.files import write_json
from tests.conftest import WORDS, save_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["abc", "abcdefghijklmnopqrstuvwxyz, and more than twenty tokens", " naïve 中文 ", "ab cd", "x"]
SIZES = {"vocab_size": len(WORDS) + 256, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = {**SIZES, **HEADS, "num_key_value_heads": 1, "head_dim": 8, "initializer_range": 0.3}
GEMMA = {**DECODER, "query_pre_attn_scalar": 8, "sliding_window": 4}
BERT = {**SIZES, **HEADS, "max_position_embeddings": 64, "initializer_range": 0.3}
MODERN = {**BERT, "local_attention": 8, "cls_token_id": 1, "sep_token_id": 2}
T5 = {"vocab_size": len(WORDS) + 256, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
PROMPTS = {"query": "ask: ", "document": "text: "}


def save_folder(
    into: Path,
    kind: str,
    settings: dict[str, Any],
    pooling: Any = "mean",
    prompts: Any = PROMPTS,
    dense: bool = False,
    normalize: bool = True,
    default: str | None = None,
    limit: int | None = 20,
    similarity: Any = None,
    **pool: Any,
) -> Path:
    """Save a random model of a kind as a sentence-transformers folder."""
    torch.manual_seed(5)
    plain = into.parent / f"{into.name}-plain"
    AutoModel.from_config(CONFIG_MAPPING[kind](**settings)).save_pretrained(plain)
    save_tokenizer(plain, bos=True)
    transformer = Transformer(str(plain), max_seq_length=limit)
    modules: list[Any] = [transformer, Pooling(transformer.get_embedding_dimension(), pooling, **pool)]
    modules += [Dense(modules[1].get_embedding_dimension(), 8)] if dense else []
    modules += [Normalize()] if normalize else []
    named: Any = {"prompts": prompts, "default_prompt_name": default, "similarity_fn_name": similarity}
    SentenceTransformer(modules=modules, **named).save_pretrained(str(into), create_model_card=False)
    return into


def change(path: Path, **values: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    found = {**(json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}), **values}
    write_json(path, {key: value for key, value in found.items() if value is not None})


def into_a_subfolder(folder: Path) -> None:
    """Move the transformer to where sentence-transformers 0.3 to 2.1 kept it."""
    (folder / "0_Transformer").mkdir()
    for path in list(folder.iterdir()):
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(folder / "0_Transformer" / path.name)
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    modules[0]["path"] = "0_Transformer"
    write_json(folder / "modules.json", modules)


def old_pooling(folder: Path) -> None:
    """Write the pooling as sentence-transformers did before 5.4."""
    modes = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}
    write_json(folder / "1_Pooling/config.json", {"word_embedding_dimension": 16, **modes})


def length_in_the_old_place(folder: Path) -> None:
    change(folder / "tokenizer_config.json", model_max_length=512)
    change(folder / "sentence_bert_config.json", max_seq_length=12, do_lower_case=False)


def no_length(folder: Path) -> None:
    change(folder / "tokenizer_config.json", model_max_length=None)


def positions_limit_the_length(folder: Path) -> None:
    no_length(folder)
    change(folder / "config.json", max_position_embeddings=14)


def lower_case(folder: Path) -> None:
    change(folder / "sentence_bert_config.json", do_lower_case=True)


def shorter_vectors(folder: Path) -> None:
    change(folder / "config_sentence_transformers.json", truncate_dim=8)


def bidirectional(folder: Path) -> None:
    change(folder / "config.json", is_causal=False)


def cuts_on_the_left(folder: Path) -> None:
    change(folder / "tokenizer_config.json", truncation_side="left")


def pads_on_the_left(folder: Path) -> None:
    change(folder / "tokenizer_config.json", padding_side="left")


def no_prompts(folder: Path) -> None:
    (folder / "config_sentence_transformers.json").unlink()


def as_it_is(folder: Path) -> None:
    """Change nothing."""


OWN, THEIRS = "effir", "sentence-transformers"
LAST: dict[str, Any] = {"kind": "llama", "settings": DECODER, "pooling": "lasttoken"}
FOLDERS: dict[str, tuple[str, dict[str, Any], Callable[[Path], None]]] = {
    "BERT mean": (THEIRS, {"kind": "bert", "settings": BERT}, as_it_is),
    "BERT CLS": (THEIRS, {"kind": "bert", "settings": BERT, "pooling": "cls"}, as_it_is),
    "BERT max": (THEIRS, {"kind": "bert", "settings": BERT, "pooling": "max"}, as_it_is),
    "BERT mean and CLS": (THEIRS, {"kind": "bert", "settings": BERT, "pooling": ("cls", "mean")}, as_it_is),
    "BERT and Dense": (THEIRS, {"kind": "bert", "settings": BERT, "dense": True}, as_it_is),
    "BERT without a norm": (THEIRS, {"kind": "bert", "settings": BERT, "normalize": False}, as_it_is),
    "BERT in 0_Transformer": (THEIRS, {"kind": "bert", "settings": BERT}, into_a_subfolder),
    "ModernBERT": (THEIRS, {"kind": "modernbert", "settings": MODERN}, as_it_is),
    "T5 encoder": (THEIRS, {"kind": "t5", "settings": T5}, as_it_is),
    "Llama last token": (OWN, LAST, as_it_is),
    "Llama mean": (OWN, {**LAST, "pooling": "mean"}, as_it_is),
    "Llama weighted mean": (THEIRS, {**LAST, "pooling": "weightedmean"}, as_it_is),
    "Llama and Dense": (THEIRS, {**LAST, "dense": True}, as_it_is),
    "Qwen2": (OWN, {"kind": "qwen2", "settings": DECODER, "pooling": "lasttoken"}, as_it_is),
    "Qwen3": (OWN, {"kind": "qwen3", "settings": DECODER, "pooling": "lasttoken"}, pads_on_the_left),
    "Gemma 3": (OWN, {"kind": "gemma3_text", "settings": GEMMA}, as_it_is),
    "Gemma 3 bidirectional": (
        THEIRS,
        {"kind": "gemma3_text", "settings": {**GEMMA, "use_bidirectional_attention": True}},
        as_it_is,
    ),
    "Qwen2 bidirectional": (THEIRS, {"kind": "qwen2", "settings": DECODER}, bidirectional),
    "a prompt named passage": (OWN, {**LAST, "prompts": {"query": "q: ", "passage": "p: "}}, as_it_is),
    "a default prompt": (OWN, {**LAST, "prompts": {"any": "a: "}, "default": "any"}, as_it_is),
    "no prompts": (OWN, LAST, no_prompts),
    "a mean without the prompt": (THEIRS, {**LAST, "pooling": "mean", "include_prompt": False}, as_it_is),
    "length in sentence_bert_config": (OWN, LAST, length_in_the_old_place),
    "no model_max_length": (OWN, LAST, no_length),
    "length of the positions": (OWN, LAST, positions_limit_the_length),
    "0_Transformer": (OWN, LAST, into_a_subfolder),
    "old pooling": (OWN, LAST, old_pooling),
    "left padding": (OWN, LAST, pads_on_the_left),
    "cut on the left": (THEIRS, LAST, cuts_on_the_left),
    "lower case": (THEIRS, LAST, lower_case),
    "shorter vectors": (THEIRS, LAST, shorter_vectors),
}
# What stands before a query and a document, where it is not PROMPTS.
BEFORE = {"a prompt named passage": ("q: ", "p: "), "a default prompt": ("a: ", "a: "), "no prompts": ("", "")}


def of_library(folder: Path, prompt: str) -> NDArray[np.float32]:
    """Encode each text alone by the library, with an explicit prompt, as unit vectors."""
    model = SentenceTransformer(str(folder), model_kwargs={"dtype": "float32"})
    found = [model.encode([text], prompt=prompt, normalize_embeddings=True)[0] for text in TEXTS]
    return np.stack(found)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_gives_the_vectors_of_sentence_transformers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs, settings, alter = FOLDERS[name]
    folder = save_folder(tmp_path / "folder", **settings)
    alter(folder)
    encoder = open_encoder(folder, "torch", "float32", 64)
    assert isinstance(encoder, LibraryEncoder) == (runs == THEIRS)
    query, document = BEFORE.get(name, tuple(PROMPTS.values()))
    for encode, prompt in ((encoder.queries, query), (encoder.documents, document)):
        expected = of_library(folder, prompt)
        np.testing.assert_allclose(encode(TEXTS), expected, atol=1e-5)
        np.testing.assert_allclose(np.concatenate([encode([text]) for text in TEXTS]), expected, atol=1e-5)
    assert encoder.about.startswith("sentence-transformers encodes: it") == (runs == THEIRS)


def test_a_model_without_a_transformer_gives_its_own_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_tokenizer(tmp_path, bos=False)
    torch.manual_seed(5)
    static = StaticEmbedding(Tokenizer.from_file(str(tmp_path / "tokenizer.json")), embedding_dim=8)
    SentenceTransformer(modules=[static]).save_pretrained(str(tmp_path / "static"), create_model_card=False)
    encoder = open_encoder(tmp_path / "static", "torch", "float32", 64)
    np.testing.assert_allclose(encoder.documents(TEXTS), of_library(tmp_path / "static", ""), atol=1e-5)
    assert len(encoder.reader.read(["abc"], "query")[0]) == 3


def test_parameters_are_counted_without_the_token_embeddings(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "bert", "bert", BERT)
    table = BERT["vocab_size"] * BERT["hidden_size"]
    every = sum(parameter.numel() for parameter in SentenceTransformer(str(folder)).parameters())
    assert open_library(folder, "float32").parameters_without_embeddings() == every - table
    table_alone = StaticEmbedding(Tokenizer.from_file(str(folder / "tokenizer.json")), embedding_dim=8)
    static = SentenceTransformer(modules=[table_alone])
    static.save_pretrained(str(tmp_path / "all"), create_model_card=False)
    assert open_library(tmp_path / "all", "float32").parameters_without_embeddings() == 0


def test_a_batch_of_the_library_has_as_many_texts_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = open_library(save_folder(tmp_path / "bert", "bert", BERT), "float32", batch_size=2)
    read, before = list[int](), encoder.model.preprocess
    monkeypatch.setattr(encoder.model, "preprocess", lambda texts, **kw: read.append(len(texts)) or before(texts, **kw))
    encoder.documents(TEXTS)
    assert read == [2, 2, 1]


def test_an_encoder_of_others_reads_the_shorter_of_two_lengths(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "bert", "bert", BERT, limit=12)
    for asked, read in ((8, 8), (30, 12)):
        library = SentenceTransformer(str(folder))
        library.max_seq_length = read
        expected = library.encode_document([TEXTS[1]], normalize_embeddings=True)
        np.testing.assert_allclose(open_limited(folder, "float32", asked).documents([TEXTS[1]]), expected, atol=1e-5)
