"""The models of `benchmarks.small_encoders`, each in PyTorch and as an int8 graph of the same OpenVINO runner."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn.functional import normalize

from benchmarks.contenders import minilm, usual
from benchmarks.worker import Encode
from effir.encoding.backends import graph_of, open_limited
from effir.encoding.encoder import TextEncoder
from effir.encoding.library import open_library
from effir.encoding.openvino import open_graph, save_graph, write_graph
from effir.encoding.text_reader import TextReader
from effir.evaluation.speed import bytes_on_disk
from effir.files import sha256_of, state_dir, writing
from effir.model.prompt_config import transformer_of
from effir.model.retriever import build_retriever, save_retriever
from effir.model.shape import shape_of
from effir.params import load_params
from stages.settings import retriever_settings

BUDGET = 1024
SMALL = "all-MiniLM-L6-v2"


class PooledEncoder(nn.Module):
    """A bidirectional encoder with mean pooling, with the inputs and outputs of `PooledDecoder`."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Encode ``input_ids`` (batch, tokens) with ``lengths`` (batch,) real tokens as (batch, hidden)."""
        real = torch.arange(input_ids.shape[1]) < lengths[:, None]
        states = self.encoder(input_ids=input_ids, attention_mask=real.long()).last_hidden_state
        return normalize((states * real[:, :, None]).sum(dim=1), dim=-1)


@dataclass(frozen=True)
class Contender:
    """A model: its folder, with the int8 graph inside, and whether effir made it."""

    name: str
    folder: Path
    ours: bool

    def reader(self) -> TextReader:
        """Say how it reads texts."""
        if self.ours:
            return TextReader.open(self.folder)
        return TextReader.of_library(SentenceTransformer(str(self.folder), device="cpu"))

    def searching(self, engine: str, tokens: int) -> TextEncoder:
        """Open it for searching, texts truncated at ``tokens`` tokens; PyTorch takes bfloat16 where that is faster."""
        if engine == "torch":
            return open_limited(self.folder, "auto", tokens)
        return _graph(self, tokens)

    def timed(self, engine: str, tokens: int) -> Callable[[], tuple[Encode, Encode]]:
        """Return how a process of its own opens it for timing: documents, and queries one by one."""
        if engine == "torch":
            return partial(usual, self.folder) if self.ours else partial(minilm, self.folder, tokens)
        return partial(_both, self, tokens)

    def parameters(self) -> int:
        """Count the parameters without the token embeddings."""
        if self.ours:
            return shape_of(transformer_of(self.folder)).parameters(embeddings=False)
        return open_library(self.folder, "float32").parameters_without_embeddings()

    def weights(self, engine: str) -> int:
        """Count the bytes of the weights of one engine."""
        return bytes_on_disk(self.folder) if engine == "torch" else bytes_of_graph(self.folder)


def bytes_of_graph(folder: Path) -> int:
    """Return the bytes of the int8 graph's weights."""
    return (graph_of(folder, "int8") / "model.bin").stat().st_size


def prepared(name: str, source: Path, texts: Sequence[str]) -> Contender:
    """Copy a model once into effir's state, as a retriever of today's settings if it is a checkpoint; write its graph.

    A folder with ``modules.json`` whose transformer is no causal decoder is traced as a `PooledEncoder`.
    """
    ours = name != SMALL
    copy = state_dir("benchmarks") / f"small-{sha256_of(source)[:16]}"
    if not copy.exists():
        with writing(copy) as draft:
            if (source / "modules.json").exists():
                shutil.copytree(source, draft)
                shutil.rmtree(draft / "openvino", ignore_errors=True)
            else:
                save_retriever(build_retriever(source, **retriever_settings(load_params())), draft)
            if ours:
                write_graph(draft, graph_of(draft, "int8"), texts)
            else:
                model: Any = SentenceTransformer(str(draft), device="cpu")
                model.max_seq_length = load_params().retriever.max_tokens
                tokens = TextReader.of_library(model).read(texts, "document")
                save_graph(PooledEncoder(model[0].model).eval(), graph_of(draft, "int8"), tokens)
    return Contender(name, copy, ours)


def _graph(contender: Contender, tokens: int) -> TextEncoder:
    encoder = open_graph(graph_of(contender.folder, "int8"), contender.reader(), "int8", BUDGET)
    encoder.limit(tokens)
    return encoder


def _both(contender: Contender, tokens: int) -> tuple[Encode, Encode]:
    encoder = _graph(contender, tokens)
    return encoder.documents, encoder.queries
