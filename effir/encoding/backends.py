"""Open a retriever folder in the runtime that encodes with it: the one way from a folder to vectors."""

import math
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from effir.encoding.encoder import TextEncoder
from effir.encoding.library import open_library
from effir.encoding.self_check import EXACT, Checked, check_folder, deviation, fingerprint
from effir.encoding.text_reader import TextReader
from effir.errors import EffirError
from effir.files import require, sha256_of
from effir.model.prompt_config import transformer_of

if TYPE_CHECKING:
    from effir.model.precision import TrainingPrecision

Backend = Literal["torch", "openvino"]
Precision = Literal["auto", "float32", "bfloat16", "int8"]
BATCH_TOKENS = 1024
ROUNDED = 0.999
"""The lowest cosine to the vectors in float32 with which PyTorch may encode in bfloat16."""


def open_encoder(retriever: Path, backend: Backend, precision: Precision, budget: int) -> TextEncoder:
    """Open a sentence-transformers folder; a batch has at most ``budget`` tokens. Only this backend is imported.

    In float32 its vectors are the library's to 1e-5: effir's own encoder runs the decoders that it reads rightly, and
    sentence-transformers all others. ``about`` of the result says what runs, and how far rounded vectors are off.

    EffirError: no retriever, no export for this backend and precision, a precision that the backend does not support,
    a folder that the library cannot open, bfloat16 that costs too much precision.
    """
    require(retriever / "modules.json")
    if backend == "torch" and precision == "int8":
        raise EffirError("the torch backend does not support int8: use the openvino backend or another precision")
    if backend == "openvino":
        from effir.encoding.openvino import GRAPH

        require(graph_of(retriever, precision) / GRAPH)
    content = fingerprint(retriever)
    checked = check_folder(retriever, content, partial(_open_own, retriever, "torch", "float32", budget))
    encoder = _open(retriever, checked, backend, precision, budget)
    if precision != "float32" or backend == "openvino":
        graph = sha256_of(graph_of(retriever, precision)) if backend == "openvino" else ""
        cosine, off = deviation(checked, encoder, [content, precision, graph])
        if cosine < ROUNDED and (backend, precision) == ("torch", "auto") and not math.isinf(off):
            print(f"{retriever}: auto takes float32, in bfloat16 the lowest cosine is {cosine:.5f}", file=sys.stderr)
            del encoder  # two models need not fit into memory
            return _open(retriever, checked, backend, "float32", budget)
        encoder.about = _said(retriever, backend, precision, encoder.about, cosine, off)
    return encoder


def open_limited(folder: Path, precision: Precision, max_tokens: int) -> TextEncoder:
    """Open a model that the pipeline did not make, a teacher or a baseline, in PyTorch; EffirError as open_encoder.

    Texts are truncated at ``max_tokens`` tokens, or at the model's own limit if that is lower.
    """
    encoder = open_encoder(folder, "torch", precision, BATCH_TOKENS)
    encoder.limit(max_tokens)
    return encoder


def graph_of(retriever: Path, precision: Precision) -> Path:
    """Return the folder of a retriever's OpenVINO graph; bfloat16 runs the float32 graph."""
    return retriever / "openvino" / ("int8" if precision == "int8" else "float32")


def _open(retriever: Path, checked: Checked, backend: Backend, precision: Precision, budget: int) -> TextEncoder:
    if not checked.why_library:
        return _open_own(retriever, backend, precision, budget)
    if backend != "torch":
        raise EffirError(f"openvino does not run {retriever}, {checked.why_library}: use the torch backend")
    encoder = open_library(retriever, precision)
    encoder.about = f"sentence-transformers encodes: {checked.why_library}"
    return encoder


def _open_own(retriever: Path, backend: Backend, precision: Precision, budget: int) -> TextEncoder:
    reader = TextReader.open(retriever)
    if backend == "openvino":
        from effir.encoding.openvino import open_graph

        return open_graph(graph_of(retriever, precision), reader, precision, budget)
    from effir.encoding.pytorch import torch_encoder
    from effir.model.checkpoint import load_model

    model, _ = load_model(transformer_of(retriever))
    return torch_encoder(model, reader, cast("TrainingPrecision", precision), budget)


def _said(retriever: Path, backend: Backend, precision: Precision, about: str, cosine: float, off: float) -> str:
    """Add the lowest cosine to the exact vectors; EffirError if bfloat16, or a graph in float32, is too far off.

    Rounded graphs were measured by nDCG when they were exported.
    """
    if off <= EXACT:
        return about
    said = f"in {precision}, the lowest cosine to the vectors in float32 is {cosine:.5f}"
    if precision == "float32" or math.isinf(off):
        fix = "export it again, or use the torch backend in float32"
        raise EffirError(f"{retriever} gives other vectors in {backend}, {precision}, than its weights: {fix}")
    if cosine < ROUNDED and (backend, precision) == ("torch", "bfloat16"):
        raise EffirError(f"{retriever} is not exact enough: {said}, less than {ROUNDED}: use float32")
    if cosine < ROUNDED:
        print(f"{retriever}: {said}; float32 is exact", file=sys.stderr)
    return "; ".join(filter(None, (about, said)))
