"""Read and write files: atomic writes, checked reads, and the folders where effir keeps its own state."""

import csv
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from effir.errors import EffirError, MissingError
from effir.process import has_ended, identity

OLD = ".old"  # what a folder is called from the moment when its successor is complete until it is removed
OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
_NUMBERS = count()
LONGEST = 10_000_000  # characters of a field of a CSV file; csv's own limit is 131,072


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a file or folder; rename it to ``path`` when the block succeeds.

    If the block raises, ``path`` does not change. An old folder is renamed aside before the new one takes its place: a
    kill in between loses neither, and :func:`settled` completes it.
    """
    with scratch(path) as work:
        yield (draft := work / path.name)
        _put(draft, path, work)


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """Make a folder of this block's own beside ``path``, and remove it at the end.

    Those that killed processes left for the same ``path`` are removed too, but never one of a process that may live: in
    another container or on another machine nobody can tell.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    settled(path)
    for left, owner in _scratches(path):
        if has_ended(owner):
            shutil.rmtree(left, ignore_errors=True)
    work = path.parent / f".{path.name}.{identity()}.{next(_NUMBERS)}.draft"
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def settled(path: Path) -> Path:
    """Return ``path``; if a kill interrupted the replacement of a folder, put the new one in its place first."""
    if not path.exists():
        for work, _ in _scratches(path):
            if (work / f"{path.name}{OLD}").exists():  # it was moved aside, so the new one is complete
                with suppress(OSError):  # another process has just done the same
                    (work / path.name).rename(path)
    return path


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON."""
    with writing(path) as draft:
        draft.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object per line, streaming."""
    with writing(path) as draft, draft.open("w", encoding="utf-8", newline="\n") as lines:
        for row in rows:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; MissingError if it is missing, EffirError if it is not JSON."""
    text = require(path).read_bytes()
    try:
        return json.loads(text)
    except ValueError as error:  # includes bytes that are not UTF-8
        raise EffirError(f"{path} is not JSON ({error}): correct it, or delete it and make it again") from None


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Stream the objects of a JSON-lines file; EffirError names the line that is not a JSON object."""
    with path.open(encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise EffirError(f"{path}, line {number}, is not a JSON object: correct or remove it")
                    yield row
        except json.JSONDecodeError as error:
            raise EffirError(f"{path}, line {number}, is not JSON ({error.msg}): correct or remove it") from None
        except UnicodeDecodeError as error:
            raise EffirError(f"{path} is not UTF-8 text ({error.reason}): convert it") from None


def table_rows(path: Path, wanted: Sequence[str], delimiter: str = ",") -> Iterator[tuple[str, dict[str, str | None]]]:
    """Stream a UTF-8 CSV file with a header: the place of each row, for messages, and its columns.

    EffirError if a wanted column is missing, or the file is not CSV in UTF-8.
    """
    csv.field_size_limit(LONGEST)
    with path.open(encoding="utf-8-sig", newline="") as lines:
        try:
            table = csv.DictReader(lines, delimiter=delimiter)
            for name in wanted:
                if name not in (table.fieldnames or ()):
                    there = ", ".join(map(str, table.fieldnames or ["none"]))
                    raise EffirError(f"{path} has no column {name!r}, only {there}: name an existing column")
            for row in table:
                yield f"{path}, line {table.line_num},", row
        except (csv.Error, UnicodeDecodeError) as error:
            raise EffirError(f"{path} cannot be read as CSV in UTF-8 ({error}): convert it") from None


def can_be_written(text: str) -> bool:
    """Return whether a text can be written as UTF-8: a lone surrogate, which JSON may hold, cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def require(path: Path) -> Path:
    """Return ``path`` if it exists, otherwise raise MissingError."""
    if not settled(path).exists():
        raise MissingError(path)
    return path


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, or of the sorted relative names and contents of a folder."""
    if path.is_dir():
        digest = hashlib.sha256()
        for member in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{member.relative_to(path).as_posix()} {sha256_of(member)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def text_digest(text: str) -> str:
    """Hex SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def project_root() -> Path:
    """Return the main checkout, also inside a temporary folder of an experiment: DVC sets ``DVC_ROOT`` there."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def state_dir(kind: str) -> Path:
    """Make a folder for state that outlives a stage but is not an artifact: ``downloads``, ``checkpoints``."""
    folder = project_root() / ".effir" / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _scratches(path: Path) -> list[tuple[Path, str]]:
    """List the folders that :func:`scratch` made for ``path``, each with the process that made it."""
    form = re.compile(rf"\.{re.escape(path.name)}\.([\w-]+)\.\d+\.draft")
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    return [(each, found[1]) for each in beside if (found := form.fullmatch(each.name))]


def _put(draft: Path, path: Path, work: Path) -> None:
    """Rename ``draft`` to ``path``; of two processes that do so at once the later one holds."""
    if not draft.is_dir():
        draft.replace(path)
        return
    for number in count():
        try:
            draft.rename(path)
            return
        except OSError as error:
            if not draft.exists():  # another process found the path missing and completed this for us
                return
            if error.errno not in OCCUPIED:
                raise
        with suppress(FileNotFoundError):
            path.rename(work / f"{path.name}{OLD}{number or ''}")
