"""Take files out of zip archives that nobody has to trust: whole or not at all, and never outside their folder."""

import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath

from effir.errors import EffirError
from effir.files import writing

CHUNK = 1 << 16  # bytes; the most that a bomb writes beyond its limit


def unpack(archive: Path, into: Path, limit: int) -> None:
    """Unpack a zip into folder ``into``, whole or not at all, writing at most ``limit`` bytes.

    EffirError for another format, a damaged archive, or a hostile one: members that are absolute, climb by ``..``,
    are links or devices, are encrypted, or unpack to more than the limit, whatever their headers say.
    """
    with _reading(archive) as members, writing(into) as draft:
        draft.mkdir(parents=True)
        _extract(members, members.infolist(), draft, limit, archive)


def take_out(archive: Path, inside: str, into: Path, limit: int) -> Path:
    """Take the file or folder ``inside`` out of a zip, to that path under ``into``; taken out before, it is reused.

    EffirError where the archive has no such member, and for whatever :func:`unpack` refuses.
    """
    target = into / inside
    if target.exists():
        return target
    with _reading(archive) as members:
        chosen = [m for m in members.infolist() if m.filename == inside or m.filename.startswith(f"{inside}/")]
        if not chosen:
            largest = sorted(members.infolist(), key=lambda m: -m.file_size)[:3]
            names = ", ".join(m.filename for m in largest)
            raise EffirError(f"{archive.name} holds no {inside}: mend the path, its largest files are {names}")
        with writing(into) as draft:
            _extract(members, chosen, draft, limit, archive)
    return target


@contextmanager
def _reading(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as members:
            yield members
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, UnicodeDecodeError) as error:
        kind = "damaged" if zipfile.is_zipfile(archive) or archive.suffix in (".zip", ".whl") else "not a zip archive"
        raise EffirError(f"{archive} is {kind} ({error}): remove it and fetch it again, or pack it as a zip") from None


def _extract(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], into: Path, limit: int, name: Path) -> None:
    for member in members:
        if flaw := _flaw(member):
            raise EffirError(f"{name} holds {member.filename!r}, {flaw}: do not trust it; take it from its publisher")
    left = limit
    for member in members:
        try:
            left -= _extract_one(archive, member, into / member.filename, left)
        except (FileExistsError, NotADirectoryError):
            raise EffirError(
                f"{name} holds {member.filename!r} twice, or as a file and a folder: pack it anew"
            ) from None
        if left < 0:
            raise EffirError(f"{name} unpacks to more than {limit:,} bytes: raise the limit only if you trust it")


def _extract_one(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, limit: int) -> int:
    """Write one member, at most one chunk more than ``limit`` bytes, so that a bomb ends early; return its size."""
    (target if member.is_dir() else target.parent).mkdir(parents=True, exist_ok=True)
    copied = 0
    if not member.is_dir():
        with archive.open(member) as source, target.open("xb") as sink:
            while copied <= limit and (chunk := source.read(CHUNK)):
                copied += sink.write(chunk)
    return copied


def _flaw(member: zipfile.ZipInfo) -> str:
    """Name what makes a member hostile, or nothing; names are read as Windows reads them, the stricter way."""
    path = PureWindowsPath(member.filename)
    if path.anchor:
        return "an absolute path"
    if ".." in path.parts or "\\" in member.orig_filename:
        return "a path that climbs out or is written for another system"
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or device"
    return "an encrypted member" if member.flag_bits & 1 else ""
