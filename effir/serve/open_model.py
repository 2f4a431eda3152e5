"""Open the model of a document index: a retriever folder, or a registered version of one."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from effir.encoding.backends import Backend, Precision, graph_of, open_encoder
from effir.encoding.encoder import TextEncoder
from effir.encoding.self_check import fingerprint
from effir.errors import EffirError
from effir.files import settled, sha256_of, state_dir

BATCH_TOKENS = 1024


@dataclass(frozen=True)
class ServedModel:
    """The model of an index: the name that the user gave, its folder and fingerprint, and how it is run."""

    name: str
    folder: str
    fingerprint: str
    backend: Backend = "torch"
    precision: Precision = "auto"

    @property
    def key(self) -> str:
        """Identify what must be equal for vectors to be comparable."""
        return sha256(f"{self.fingerprint} {self.backend} {self.precision}".encode()).hexdigest()[:16]


def model_of(
    name: str, backend: Literal["auto", "torch", "openvino"] = "auto", precision: Precision = "auto"
) -> ServedModel:
    """Describe a model for an index: a folder, or a registered version ``models:/<name>@<alias>``, downloaded.

    By default OpenVINO runs it if its folder has a graph, else torch.
    """
    folder = Path(name).expanduser()
    if name.startswith("models:/"):
        from effir.tracking.versions import download_model

        folder = download_model(name, state_dir("models"))
    elif not (folder / "modules.json").is_file():
        raise EffirError(f"{folder} holds no retriever: name a sentence-transformers folder, or models:/<name>@<alias>")
    chosen: Backend = "openvino" if backend == "openvino" else "torch"
    graphs = [graph for graph in ("int8", "float32") if settled(folder / "openvino" / graph).is_dir()]
    if backend == "auto" and precision == "auto" and graphs:
        chosen, precision = "openvino", "int8" if graphs[0] == "int8" else "auto"
    return ServedModel(name, str(folder.resolve()), _identity(folder, chosen, precision), chosen, precision)


def open_model(model: ServedModel) -> TextEncoder:
    """Open the encoder of an index; EffirError if its model is missing or has changed since the index was built."""
    folder = Path(model.folder)
    if not (folder / "modules.json").is_file():
        raise EffirError(
            f"the model of the index, {model.name}, is missing from {folder}: put it back or build the index again"
        )
    if _identity(folder, model.backend, model.precision) != model.fingerprint:
        also = "An index of an older effir, which read fewer files of a model, must be built again too"
        raise EffirError(f"the model in {folder} has changed since the index was built: build the index again. {also}")
    return open_encoder(folder, model.backend, model.precision, BATCH_TOKENS)


def _identity(folder: Path, backend: Backend, precision: Precision) -> str:
    """Hash what decides a model's vectors: all files of its folder, and the graph if a backend runs one."""
    graph = graph_of(folder, precision)
    return fingerprint(folder) + (sha256_of(graph) if backend == "openvino" and graph.is_dir() else "")
