"""Progress of long work: a bar with the time left in a terminal, a line every 30 seconds in a log."""

import sys
from collections.abc import Iterable
from typing import Any, TypeVar, overload

from tqdm import tqdm

T = TypeVar("T")
LOG_SECONDS = 30
"""Seconds between two lines of a log. Work that takes less writes none."""


class _Log(tqdm):  # type: ignore[type-arg]  # the class is not generic when the program runs
    """A bar that writes lines instead of redrawing itself."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if msg is None:  # "" would clear the bar
            state = self.format_dict
            rate = (self.n - self.initial) / state["elapsed"]
            self.fp.write(f"{log_line(self.desc, int(self.n), self.total, self.unit, rate)}\n")
            self.fp.flush()


@overload
def progress(work: Iterable[T], desc: str, unit: str) -> "tqdm[T]": ...
@overload
def progress(work: int | None, desc: str, unit: str) -> "tqdm[Any]": ...
def progress(work: Iterable[Any] | int | None, desc: str, unit: str) -> "tqdm[Any]":
    """Show the progress of ``work``: an iterable, or the number of units that ``update`` will report, if it is known.

    The result is a tqdm bar: iterate over it, or use it in a ``with`` block. The time left is that at the mean speed so
    far. Without a terminal, as in a stage that DVC runs, stderr gets a line every ``LOG_SECONDS``.
    """
    count = {"total": work} if isinstance(work, int) else {"iterable": work}
    settings: dict[str, Any] = {"desc": desc, "miniters": 1, "smoothing": 0, "file": sys.stderr, **count}
    if sys.stderr.isatty():
        return tqdm(unit=f" {unit}", **settings)
    return _Log(unit=unit, mininterval=LOG_SECONDS, delay=LOG_SECONDS, leave=False, **settings)


def log_line(desc: str, done: int, total: float | None, unit: str, rate: float) -> str:
    """Say how far the work is, and how long it takes to finish at ``rate`` units a second.

    >>> log_line("encode", 1024, 2656, "documents", 13.6)
    'encode: 1,024 of 2,656 documents, 02:00 left'
    >>> log_line("encode", 1024, None, "documents", 13.6)
    'encode: 1,024 documents'
    """
    if total is None:
        return f"{desc}: {done:,} {unit}"
    left = f", {tqdm.format_interval((total - done) / rate)} left" if rate else ""
    return f"{desc}: {done:,} of {int(total):,} {unit}{left}"
