"""Files that are whole or absent: atomic writes, checked reads, and where effir keeps its own state."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from effir.errors import EffirError, MissingError


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` for a file or folder; rename it onto ``path`` when the block ends well.

    A block that raises leaves ``path`` as it was and nothing half-written beside it; what a killed writer of the same
    ``path`` left there is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_orphans(path)
    draft = path.parent / f".{path.name}.{os.getpid()}.draft"
    _remove(draft)
    try:
        yield draft
        if draft.is_dir():
            _remove(path)
        draft.replace(path)
    finally:
        _remove(draft)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON; dataclass dictionaries, lists and numbers only."""
    with writing(path) as draft:
        draft.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, streaming."""
    with writing(path) as draft, draft.open("w", encoding="utf-8", newline="\n") as lines:
        for row in rows:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; EffirError names the file where it is missing or not JSON."""
    text = require(path).read_bytes()
    try:
        return json.loads(text)
    except ValueError as error:  # also of bytes that are no UTF-8
        raise EffirError(f"{path} is not JSON ({error}): correct it, or make it again") from None


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Stream the objects of a JSON-lines file; EffirError names what is not one, or is no text."""
    with path.open(encoding="utf-8") as lines:
        number = 0
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


def require(path: Path) -> Path:
    """Return ``path`` where it exists; otherwise raise MissingError."""
    if not path.exists():
        raise MissingError(path)
    return path


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, or of a folder's sorted relative names and contents."""
    if path.is_dir():
        digest = hashlib.sha256()
        for member in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{member.relative_to(path).as_posix()} {sha256_of(member)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def project_root() -> Path:
    """Find the main checkout, also inside DVC's temporary experiment folders: DVC sets ``DVC_ROOT`` for a stage."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def state_dir(kind: str) -> Path:
    """Make a folder for what outlives a stage but is no artifact: ``downloads``, ``checkpoints``."""
    folder = project_root() / ".effir" / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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


def _remove_orphans(path: Path) -> None:
    """Remove the drafts of ``path`` whose processes are gone; those of living ones are still being written."""
    name = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.draft")
    for beside in path.parent.iterdir():
        found = name.fullmatch(beside.name)
        if found and not psutil.pid_exists(int(found[1])):
            _remove(beside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
