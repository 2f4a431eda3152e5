"""The models of `benchmarks.small_encoders`, each in PyTorch and as an int8 graph of the same OpenVINO runner."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn.functional import normalize

from benchmarks.contenders import minilm, usual
from benchmarks.worker import Encode
from effir.encoding.backends import BATCH_TOKENS, Backend, graph_of, open_encoder
from effir.encoding.encoder import TextEncoder
from effir.encoding.library import LibraryEncoder, open_library
from effir.encoding.openvino import open_graph, save_graph, write_graph
from effir.encoding.text_reader import TextReader
from effir.evaluation.speed import bytes_on_disk
from effir.files import sha256_of, state_dir, text_digest, writing
from effir.model.prompt_config import transformer_of
from effir.model.retriever import build_retriever, save_retriever
from effir.model.shape import shape_of
from effir.params import load_params
from effir.resume import code_digest
from stages.settings import retriever_settings

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
class Model:
    """A model of the table: its folder, with the int8 graph inside, and whether effir made it."""

    name: str
    folder: Path
    ours: bool

    def searching(self, engine: Backend, tokens: int) -> TextEncoder:
        """Open it for searching, with texts truncated at ``tokens`` tokens.

        In PyTorch a decoder is computed in the precision ``auto``, all-MiniLM-L6-v2 in float32.
        """
        if engine == "openvino":
            encoder = open_graph(graph_of(self.folder, "int8"), self._reader(), "int8", BATCH_TOKENS)
        else:
            encoder = open_encoder(self.folder, "torch", "auto", BATCH_TOKENS)
        return truncating(encoder, tokens)

    def timed(self, engine: Backend, tokens: int) -> Callable[[], tuple[Encode, Encode]]:
        """Return how a process of its own opens it for timing, as a user would: documents, and queries one by one."""
        if engine == "torch":
            return partial(usual if self.ours else minilm, self.folder, tokens)
        return partial(_both, self, tokens)

    def parameters(self) -> int:
        """Count the parameters without the token embeddings."""
        if self.ours:
            return shape_of(transformer_of(self.folder)).parameters(embeddings=False)
        return open_library(self.folder, "float32").parameters_without_embeddings()

    def weights(self, engine: Backend) -> int:
        """Count the bytes of the weights that an engine reads."""
        if engine == "torch":
            return bytes_on_disk(self.folder)
        return (graph_of(self.folder, "int8") / "model.bin").stat().st_size

    def _reader(self) -> TextReader:
        if self.ours:
            return TextReader.open(self.folder)
        return TextReader.of_library(SentenceTransformer(str(self.folder), device="cpu"))


def truncating(encoder: TextEncoder, tokens: int) -> TextEncoder:
    """Truncate at exactly ``tokens`` tokens, also above the limit that a folder names, so that all read the same."""
    encoder.reader.tokenizer.enable_truncation(tokens)
    if isinstance(encoder, LibraryEncoder):
        encoder.model.max_seq_length = tokens
    return encoder


def prepared(name: str, source: Path, texts: Sequence[str]) -> Model:
    """Copy a model into effir's state, once for the same code, libraries, settings and calibration ``texts``.

    A checkpoint becomes a retriever of today's settings. The int8 graph of a decoder is effir's; all-MiniLM-L6-v2 is
    traced as a `PooledEncoder`.
    """
    params, ours = load_params(), name != SMALL
    made_of = [sha256_of(source), retriever_settings(params), list(texts), code_digest(), version("nncf")]
    copy = state_dir("benchmarks") / f"small-{text_digest(json.dumps(made_of))[:16]}"
    if not copy.exists():
        with writing(copy) as draft:
            if (source / "modules.json").exists():
                shutil.copytree(source, draft, ignore=shutil.ignore_patterns("openvino"))
            else:
                save_retriever(build_retriever(source, **retriever_settings(params)), draft)
            if ours:
                write_graph(draft, graph_of(draft, "int8"), texts)
            else:
                small: Any = SentenceTransformer(str(draft), device="cpu")
                small.max_seq_length = params.retriever.max_tokens
                tokens = TextReader.of_library(small).read(texts, "document")
                save_graph(PooledEncoder(small[0].model).eval(), graph_of(draft, "int8"), tokens)
    return Model(name, copy, ours)


def _both(model: Model, tokens: int) -> tuple[Encode, Encode]:
    encoder = model.searching("openvino", tokens)
    return encoder.documents, encoder.queries
