"""A retriever by whatever name its user has for it, opened to encode."""

from pathlib import Path
from typing import Literal

from effir.encoding.backends import Backend, Precision, open_encoder
from effir.encoding.encoder import TextEncoder
from effir.errors import EffirError
from effir.files import state_dir
from effir.serve.documents import Model, checked_retriever, fingerprint

REGISTERED = "models:/"
BATCH_TOKENS = 1024


def retriever_folder(model: str) -> Path:
    """Find a retriever's folder: a registered version's, ``models:/<name>@<alias>``, or a path; EffirError for none."""
    if model.startswith(REGISTERED):
        from effir.tracking.download import download_model

        return download_model(model, state_dir("models"))
    folder = Path(model).expanduser()
    if not (folder / "modules.json").is_file():
        raise EffirError(f"{folder} holds no retriever: name a sentence-transformers folder, or models:/<name>@<alias>")
    return folder


def model_of(name: str, backend: Literal["auto", "torch", "openvino"] = "auto", precision: Precision = "auto") -> Model:
    """Describe a model as an index keeps it, and what runs it: OpenVINO where its graph is there, else torch."""
    folder = retriever_folder(name).resolve()
    chosen: Backend = "openvino" if backend == "openvino" else "torch"
    graphs = [graph for graph in ("int8", "float32") if (folder / "openvino" / graph).is_dir()]
    if backend == "auto" and precision == "auto" and graphs:
        chosen, precision = "openvino", "int8" if graphs[0] == "int8" else "auto"
    return Model(name, str(folder), fingerprint(folder), chosen, precision)


def open_model(model: Model) -> TextEncoder:
    """Open the encoder that an index was made by; EffirError where it is gone, or another by now."""
    return open_encoder(checked_retriever(model), model.backend, model.precision, BATCH_TOKENS)
