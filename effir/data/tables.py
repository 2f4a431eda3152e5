"""Rows of a table that a user brings, and what makes its texts unfit to be kept."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from effir.errors import EffirError

LONGEST = 10_000_000  # characters of a field; csv's own limit is 131,072


def table_rows(path: Path, wanted: Sequence[str], delimiter: str = ",") -> Iterator[tuple[str, dict[str, str | None]]]:
    """Stream a CSV file with a header, UTF-8: where each row stands, for a sentence, and its columns.

    EffirError names the wanted column that is not there, or says that the file is no such table.
    """
    csv.field_size_limit(LONGEST)
    with path.open(encoding="utf-8-sig", newline="") as lines:
        try:
            table = csv.DictReader(lines, delimiter=delimiter)
            for name in wanted:
                if name not in (table.fieldnames or ()):
                    there = ", ".join(map(str, table.fieldnames or ["none"]))
                    raise EffirError(f"{path} has no column {name!r}, only {there}: name the one that holds it")
            for row in table:
                yield f"{path}, line {table.line_num},", row
        except (csv.Error, UnicodeDecodeError) as error:
            raise EffirError(f"{path} cannot be read as CSV in UTF-8 ({error}): convert it") from None


def can_be_written(text: str) -> bool:
    """Tell whether a text can be written as UTF-8: half a character, which JSON may hold, cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
