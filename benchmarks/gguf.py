"""The base model for llama.cpp: its original GGUF file, and one in Q8_0."""

import ctypes
from importlib.util import find_spec
from pathlib import Path

from effir.data.sources import fetch
from effir.files import state_dir, writing


def gguf_files(source: str) -> dict[str, Path]:
    """Map quantisations to files; empty if llama-cpp-python is not installed or the base model is not a GGUF file."""
    if find_spec("llama_cpp") is None or (original := fetch(source, state_dir("downloads"))).suffix != ".gguf":
        return {}
    q8 = state_dir("benchmarks") / "base-q8_0.gguf"
    if not q8.exists():
        _requantise(original, q8)
    return {"Q4_1": original, "Q8_0": q8}


def _requantise(original: Path, into: Path) -> None:
    import llama_cpp

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
    settings.allow_requantize = True
    with writing(into) as draft:
        llama_cpp.llama_model_quantize(str(original).encode(), str(draft).encode(), ctypes.byref(settings))
