"""A full disk is one sentence, whichever library meets it first."""

import errno
import sqlite3

import pytest

from effir.errors import is_disk_full
from effir.lab.pipeline import DISK_FULL, Refusal, refusing


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("500 requested and 120 written"),  # numpy, which hides the system's error
        RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file data/0"),
        RuntimeError("Error in faiss: write error in index.faiss: 100 != 200 (No space left on device)"),
        sqlite3.OperationalError("database or disk is full"),
    ],
)
def test_a_full_disk_is_a_refusal_also_where_another_error_was_raised_from_it(error: Exception) -> None:
    with pytest.raises(Refusal) as refused, refusing():
        raise ValueError("cannot be saved") from error
    assert (refused.value.message, refused.value.exit_code) == (DISK_FULL, 2)


def test_other_errors_are_not_a_full_disk() -> None:
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))
    with pytest.raises(ZeroDivisionError), refusing():
        raise ZeroDivisionError
