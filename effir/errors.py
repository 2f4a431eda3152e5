"""The exceptions whose message is written for the user."""

import errno
from pathlib import Path


class EffirError(Exception):
    """A mistake that the user can correct: one or two sentences that say what, where and how to fix it.

    Programs print it without a traceback and end with status 2.
    """


# What libraries say that hide the system's error: torch, numpy, sqlite.
_FULL = (
    "No space left on device",
    "Disk quota exceeded",
    "disk is full",
    "PytorchStreamWriter failed",
    " requested and ",
)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an exception, or one that it was raised from, says that a disk has no room left."""
    if error is None:
        return False
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or any(text in str(error) for text in _FULL) or is_disk_full(error.__cause__ or error.__context__)


class MissingError(EffirError):
    """A file or folder is missing. A program that knows what makes ``path`` says so (:mod:`effir.lab.pipeline`)."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is missing: check the path, or make it first")
        self.path = path
