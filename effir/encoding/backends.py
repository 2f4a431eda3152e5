"""Open a retriever folder in the runtime that encodes with it."""

from pathlib import Path
from typing import Literal

from effir.encoding.encoder import TextEncoder
from effir.encoding.text_reader import TextReader
from effir.errors import EffirError

Backend = Literal["torch", "openvino"]
Precision = Literal["auto", "float32", "bfloat16", "int8"]


def open_encoder(retriever: Path, backend: Backend, precision: Precision, budget: int) -> TextEncoder:
    """Open a retriever folder; a batch has at most ``budget`` tokens. Only this backend is imported.

    EffirError: no retriever, no export for this backend and precision, a precision that the backend does not support.
    """
    reader = TextReader.open(retriever)
    if backend == "openvino":
        from effir.encoding.openvino import open_graph

        return open_graph(graph_of(retriever, precision), reader, precision, budget)
    if precision == "int8":
        raise EffirError("the torch backend does not support int8: use the openvino backend or another precision")
    from effir.encoding.pytorch import torch_encoder
    from effir.model.checkpoint import load_model

    return torch_encoder(load_model(retriever)[0], reader, precision, budget)


def graph_of(retriever: Path, precision: Precision) -> Path:
    """Return the folder of a retriever's OpenVINO graph; bfloat16 runs the float32 graph."""
    return retriever / "openvino" / ("int8" if precision == "int8" else "float32")
