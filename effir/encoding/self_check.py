"""Does a retriever folder give sentence-transformers' vectors? Found out once for each content of the folder."""

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from effir.encoding.encoder import TextEncoder, Vectors
from effir.encoding.library import LibraryEncoder, open_library
from effir.errors import EffirError
from effir.files import read_json, sha256_of, state_dir, text_digest, write_json
from effir.model.plain_decoder import unsupported

EXACT = 1e-5
"""The largest difference of a component of two unit vectors that counts as equal, in float32."""
KINDS = ("query", "document")
TEXTS = (
    "How do I smooth a noisy signal?",
    "Größe, naïve, 中文: convolve(a, v, mode='full') returns the discrete, linear convolution of two one-dimensional "
    "sequences. The operator is often seen in signal processing, where it models the effect of a linear system.",
)
SPELLED = ("  two  spaces\n\tand a tab ", "a 😀 naïve İstanbul ﬁne №5", "x" * 50)
"""Texts that tokenizers split in several ways."""
LONGEST = 4096  # a model whose limit is higher is not asked where it truncates
LIBRARIES = ("sentence-transformers", "tokenizers", "torch", "transformers")


@dataclass(frozen=True)
class Checked:
    """What was found: why sentence-transformers must encode, empty if effir does; the unit vectors of ``TEXTS``."""

    why_library: str
    vectors: dict[str, list[list[float]]]

    def compare(self, encoder: TextEncoder) -> tuple[float, float]:
        """Compare the vectors found with those of an encoder, for each text alone and for all together.

        Return the lowest cosine, and the largest difference of a component: -1 and infinity where the dimensions differ
        or a component is not a number.
        """
        found = [(ours, np.array(self.vectors[kind])) for kind, ours in _ways(encoder)]
        if not all(ours.shape == exact.shape and np.isfinite(ours).all() for ours, exact in found):
            return -1.0, math.inf
        cosines = np.concatenate([(ours * exact).sum(axis=1) for ours, exact in found])
        return float(cosines.min()), max(float(np.abs(ours - exact).max()) for ours, exact in found)


def check_folder(folder: Path, content: str, open_own: Callable[[], TextEncoder]) -> Checked:
    """Compare effir's own encoder, which ``open_own`` opens in float32, with the library.

    The outcome is remembered by ``content``, the :func:`fingerprint` of the folder. EffirError if the library cannot
    open the folder, or gives other vectors at each opening.
    """
    return Checked(**remembered([content], lambda: asdict(_check(folder, open_own))))


def deviation(checked: Checked, encoder: TextEncoder, identity: Sequence[str]) -> tuple[float, float]:
    """Return what :meth:`Checked.compare` returns, remembered by what identifies the encoder."""
    cosine, off = remembered(identity, lambda: {"found": checked.compare(encoder)})["found"]
    return float(cosine), float(off)


def remembered(identity: Sequence[str], find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what ``find`` returned for this identity, effir's code and the versions of the libraries."""
    key = text_digest(json.dumps([*identity, _code(), *map(version, LIBRARIES)]))
    with suppress(OSError, EffirError):  # a read-only folder, or a damaged file: find it again
        return dict(read_json(state_dir("opened") / f"{key[:32]}.json"))
    found = find()
    with suppress(OSError):
        write_json(state_dir("opened") / f"{key[:32]}.json", found)
    return found


def fingerprint(folder: Path) -> str:
    """Hash all files of a retriever folder except graphs for other runtimes, hidden files and Markdown."""
    digest = sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        if name.parts[0] not in ("openvino", "onnx") and not name.parts[0].startswith(".") and path.suffix != ".md":
            state = path.stat()
            digest.update(
                f"{name.as_posix()} {_hash(path, state.st_size, state.st_mtime_ns, state.st_ctime_ns)}\n".encode()
            )
    return digest.hexdigest()


@lru_cache(maxsize=1024)
def _hash(path: Path, *state: int) -> str:
    """Hash a file once in this process while its size and times stay."""
    return sha256_of(path)


@cache
def _code() -> str:
    """Hash effir's code that decides vectors."""
    rooms = (Path(__file__).parents[1] / room for room in ("encoding", "cpu", "model"))
    return text_digest("".join(sha256_of(path) for room in rooms for path in sorted(room.glob("*.py"))))


def _check(folder: Path, open_own: Callable[[], TextEncoder]) -> Checked:
    import torch

    with torch.random.fork_rng(devices=[]):  # missing weights are drawn: not the same ones at each opening
        library = open_library(folder, "float32")
        vectors = {kind: _alone(library, kind) for kind in KINDS}
        _check_vectors(folder, library, vectors)
        checked = Checked("", {kind: found.tolist() for kind, found in vectors.items()})
        limit, why = library.reader.max_tokens, unsupported(folder)
        reads = {} if why else {kind: [_ids(library, text, kind) for text in _texts_for(limit)] for kind in KINDS}
        del library  # two models need not fit into memory
        why = why or _why_not_own(checked, open_own, reads, limit)
        if not why:
            return checked
        if (difference := checked.compare(open_library(folder, "float32"))[1]) > EXACT:
            raise EffirError(
                f"{folder} gives other vectors each time it is opened, or alone than in a batch (they differ by "
                f"{difference:.2g}): weights are missing, or its tokenizer pads wrongly. Download or save it again"
            )
    print(f"{folder} is encoded by sentence-transformers: {why}", file=sys.stderr)
    return Checked(why, checked.vectors)


def _why_not_own(
    checked: Checked, open_own: Callable[[], TextEncoder], reads: Mapping[str, list[list[int]]], limit: int
) -> str:
    """Say how effir's own encoder differs from the library; empty if it does not."""
    try:
        encoder = open_own()
    except Exception as error:  # a file that the library does without, or a model that effir has not met
        return f"effir's own encoder cannot open it ({next(iter(str(error).splitlines()), type(error).__name__)})"
    texts = _texts_for(limit)
    if encoder.reader.max_tokens != limit or any(encoder.reader.read(texts, kind) != reads[kind] for kind in KINDS):
        return "effir's own encoder reads other tokens"
    _, difference = checked.compare(encoder)
    return f"the vectors of effir's own encoder differ by {difference:.2g}" if difference > EXACT else ""


def _check_vectors(folder: Path, library: LibraryEncoder, vectors: Mapping[str, Vectors]) -> None:
    """Refuse vectors that are not finite, and those whose scores depend on their length: effir compares directions."""
    if not all(found.ndim == 2 and np.isfinite(found).all() for found in vectors.values()):
        raise EffirError(f"{folder} gives vectors that are not finite: name another model")
    scores = library.model.similarity_fn_name
    if scores == "cosine":
        return
    lengths = np.concatenate([np.linalg.norm(library.plain(TEXTS, kind), axis=1) for kind in KINDS])
    if scores == "manhattan" or np.abs(lengths - 1).max() > 1e-3:
        raise EffirError(
            f"{folder} is compared by {scores}, which depends on the lengths of its vectors; effir compares by cosine: "
            "name a model whose similarity_fn_name is cosine"
        )


def _ways(encoder: TextEncoder) -> list[tuple[str, Vectors]]:
    together = {"query": encoder.queries, "document": encoder.documents}
    return [way for kind in KINDS for way in ((kind, _alone(encoder, kind)), (kind, together[kind](TEXTS)))]


def _alone(encoder: TextEncoder, kind: str) -> Vectors:
    encode = encoder.queries if kind == "query" else encoder.documents
    return np.concatenate([encode([text]) for text in TEXTS])


def _texts_for(limit: int) -> list[str]:
    """Return texts to tokenise: one is longer than ``limit`` tokens, if that is not too high."""
    return [*TEXTS, *SPELLED, *(["several words " * limit] if limit <= LONGEST else [])]


def _ids(library: LibraryEncoder, text: str, kind: str) -> list[int]:
    """Return the tokens that the library reads of a text."""
    read = library.model.preprocess([text], prompt=library.reader.prompts[kind], task=kind)
    ids, mask = read["input_ids"][0], read.get("attention_mask")
    return list(map(int, ids if mask is None else ids[mask[0].bool()]))
