"""What baselines and measure_cost share: how an encoder of evaluate.baselines is fetched and opened."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from effir.data.sources import fetch
from effir.encoding.backends import open_limited
from effir.encoding.encoder import TextEncoder
from effir.encoding.library import LibraryEncoder, open_library
from effir.errors import EffirError
from effir.files import state_dir

Opened = TypeVar("Opened", bound=TextEncoder)


def open_baseline(name: str, source: str, max_tokens: int) -> tuple[Path, TextEncoder]:
    """Return the folder and the encoder that searches, in float32; EffirError names the setting and how to do without.

    Texts are truncated at ``max_tokens`` tokens, or at the encoder's own limit if that is lower.
    """
    return _open(name, source, partial(open_limited, precision="float32", max_tokens=max_tokens))


def open_timed(name: str, source: str, max_tokens: int, batch_size: int) -> tuple[Path, LibraryEncoder]:
    """Return the folder and the encoder in sentence-transformers, as its users run it; the rest as open_baseline."""

    def opened(folder: Path) -> LibraryEncoder:
        encoder = open_library(folder, "float32", batch_size)
        encoder.limit(max_tokens)
        return encoder

    return _open(name, source, opened)


def _open(name: str, source: str, opened: Callable[[Path], Opened]) -> tuple[Path, Opened]:
    with naming(name):
        folder = fetch(source, state_dir("downloads"))
        return folder, opened(folder)


@contextmanager
def naming(baseline: str) -> Iterator[None]:
    """Add to the EffirErrors of a block the setting that they are about, and how to do without it."""
    try:
        yield
    except EffirError as error:
        without = "Or do without it: `baselines: {}` in params.yaml compares with BM25 alone"
        raise EffirError(f"evaluate.baselines.{baseline}: {error}. {without}") from error
