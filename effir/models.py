"""A retriever by whatever name its user has for it, opened to encode."""

from pathlib import Path

from effir.encoding.backends import Backend, Precision, open_encoder
from effir.encoding.encoder import TextEncoder
from effir.errors import EffirError
from effir.files import state_dir

REGISTERED = "models:/"
BATCH_TOKENS = 1024


def retriever_folder(model: str) -> Path:
    """Find a retriever's folder: a registered version's, ``models:/<name>@<alias>``, or a path; EffirError for none."""
    if model.startswith(REGISTERED):
        from effir.tracking.fetching import fetch_retriever

        return fetch_retriever(model, state_dir("models"))
    folder = Path(model).expanduser()
    if not (folder / "modules.json").is_file():
        raise EffirError(f"{folder} holds no retriever: name a sentence-transformers folder, or models:/<name>@<alias>")
    return folder


def encoder_of(folder: Path, backend: str = "auto", precision: Precision = "auto") -> TextEncoder:
    """Open a retriever by the fastest of its backends: OpenVINO where the folder holds its graph, else torch."""
    chosen: Backend = "openvino" if backend == "openvino" else "torch"
    if backend == "auto" and precision == "auto":
        graphs = [name for name in ("int8", "float32") if (folder / "openvino" / name).is_dir()]
        if graphs:
            chosen, precision = "openvino", "int8" if graphs[0] == "int8" else "auto"
    return open_encoder(folder, chosen, precision, BATCH_TOKENS)
