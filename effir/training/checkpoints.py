"""Where a stage keeps what lets it go on after a kill."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from effir.files import sha256_of, state_dir


def checkpoints_for(stage: str, settings: Mapping[str, Any], inputs: Sequence[Path]) -> Path:
    """Name a folder for resumable checkpoints by the hash of all that decides what the stage trains."""
    identity = json.dumps([settings, [sha256_of(path) for path in inputs]], sort_keys=True)
    return state_dir("checkpoints") / f"{stage}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


@contextmanager
def resumable(stage: str, settings: Mapping[str, Any], inputs: Sequence[Path]) -> Iterator[Path]:
    """Give the folder of :func:`checkpoints_for` to a block that trains and saves; then it goes."""
    place = checkpoints_for(stage, settings, inputs)
    yield place
    shutil.rmtree(place, ignore_errors=True)
