"""Work that continues after a kill: its folder is named by all that decides the result."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from effir.files import sha256_of, state_dir, text_digest

LIBRARIES = """accelerate datasets faiss-cpu numpy openvino peft safetensors sentence-transformers tokenizers torch
transformers""".split()
"""Whose versions decide the result of a training or an encoding."""
UNRELATED = {"cli", "lab", "serve", "tracking"}
"""Packages of effir that decide no training and no encoding."""


@cache
def code_digest(package: Path = Path(__file__).parent) -> str:
    """Hash effir's code and the versions of the libraries that decide what is computed."""
    digest = sha256(json.dumps({name: _version(name) for name in LIBRARIES}).encode())
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        if place.parts[0] not in UNRELATED:
            digest.update(f"{place.as_posix()} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


def checkpoints_for(stage: str, settings: Mapping[str, Any], inputs: Sequence[Path]) -> Path:
    """Name a folder for unfinished work by the hash of the settings, the inputs, the code and the libraries."""
    made_of = [settings, [sha256_of(path) for path in inputs], code_digest()]
    return state_dir("checkpoints") / f"{stage}-{text_digest(json.dumps(made_of, sort_keys=True))[:16]}"


@contextmanager
def resumable(stage: str, settings: Mapping[str, Any], inputs: Sequence[Path]) -> Iterator[Path]:
    """Yield the folder of :func:`checkpoints_for`; remove it when the block, which computes and saves, succeeds.

    No two processes of a machine share one: the second of two equal runs works in a folder of its own.
    """
    with _alone(checkpoints_for(stage, settings, inputs)) as place:
        yield place
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _alone(place: Path) -> Iterator[Path]:
    """Yield ``place``, or the first of ``<place>.2``, … that no other process has; the lock ends with the process."""
    for number in count(1):
        chosen = place if number == 1 else place.with_name(f"{place.name}.{number}")
        lock = FileLock(f"{chosen}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        try:
            yield chosen
        finally:
            lock.release()
        return


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
