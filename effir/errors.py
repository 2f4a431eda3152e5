"""The exceptions whose message is written for the user."""

from pathlib import Path


class EffirError(Exception):
    """A mistake that the user can correct: one or two sentences that say what, where and how to fix it.

    Programs print it without a traceback and end with status 2.
    """


class MissingError(EffirError):
    """A file or folder is missing. A program that knows what makes ``path`` says so (:mod:`effir.lab.pipeline`)."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is missing: check the path, or make it first")
        self.path = path
