"""A served index: a real process and a small retriever."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from benchmarks.processes import Served, serving
from effir.compress.cut import cut_checkpoint
from effir.data.beir import Document
from effir.encoding.text_reader import TextReader
from effir.model.retriever import build_retriever, save_retriever
from effir.model.shape import shape_of
from effir.serve.documents import create_index
from effir.serve.open_model import model_of, open_model
from tests.compress.conftest import tiny_model, tiny_tokenizer

DOCUMENTS = [Document(f"d{i}", f"w{i}", f"w{i} w{i + 1} w{i + 2}") for i in range(4, 50)]


def tiny_retriever(folder: Path, query_prompt: str, document_prompt: str = "") -> Path:
    """Write a cut random model as a retriever folder."""
    tiny_model("llama", attention_bias=False, mlp_bias=False).save_pretrained(folder / "uncompressed")
    tiny_tokenizer().save_pretrained(folder / "uncompressed")
    cut_checkpoint(folder / "uncompressed", folder / "cut", shape_of(folder / "uncompressed").without("mlp", [1]))
    prompts = {"query_prompt": query_prompt, "document_prompt": document_prompt}
    save_retriever(
        build_retriever(folder / "cut", pooling="last", max_tokens=16, **prompts),  # type: ignore[arg-type]
        folder / "retriever",
    )
    return folder / "retriever"


@pytest.fixture(scope="session")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_retriever(tmp_path_factory.mktemp("model"), query_prompt="w60 ")


def indexed(retriever: Path, folder: Path) -> Path:
    model = replace(model_of(str(retriever), precision="float32"), name="tiny")
    create_index(folder, DOCUMENTS, open_model(model).documents, model, "Flat")
    return folder


@pytest.fixture(scope="session")
def served(retriever: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(indexed(retriever, tmp_path_factory.mktemp("served") / "index")) as found:
        yield found


def byte_reader(max_tokens: int) -> TextReader:
    """Read a token a byte, and EOS."""
    vocab = {token: i for i, token in enumerate(["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])  # type: ignore[assignment]
    tokenizer.enable_truncation(max_tokens)
    return TextReader(tokenizer, {}, max_tokens, "last")
