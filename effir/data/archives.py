"""Extract files from untrusted zip archives: atomically, and never outside the target folder."""

import errno
import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath

from effir.errors import EffirError
from effir.files import writing

# What zipfile and its decompressors raise for damaged bytes; for some an OSError too.
DAMAGED = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    ValueError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
)
CHUNK = 1 << 16  # bytes; a zip bomb writes at most one chunk beyond the limit


def unpack(archive: Path, into: Path, limit: int) -> None:
    """Unpack a zip into folder ``into``, atomically, writing at most ``limit`` bytes.

    EffirError for another format, a damaged archive, or a hostile one: absolute paths, ``..``, links, devices,
    encrypted members, or members that unpack to more than the limit, whatever their headers say.
    """
    with _reading(archive) as members, writing(into) as draft:
        draft.mkdir(parents=True)
        _extract(members, members.infolist(), draft, limit, archive)


def take_out(archive: Path, inside: str, into: Path, limit: int) -> Path:
    """Extract the file or folder ``inside`` of a zip to that path under ``into``; reuse it if it exists.

    EffirError if the archive has no such member, and for everything that :func:`unpack` refuses.
    """
    target = into / inside
    if target.exists():
        return target
    with _reading(archive) as members:
        chosen = [m for m in members.infolist() if m.filename == inside or m.filename.startswith(f"{inside}/")]
        if not chosen:
            largest = sorted(members.infolist(), key=lambda m: -m.file_size)[:3]
            names = ", ".join(m.filename for m in largest)
            raise EffirError(f"{archive.name} has no {inside}: correct the path; its largest files are {names}")
        with writing(into) as draft:
            _extract(members, chosen, draft, limit, archive)
    return target


@contextmanager
def _reading(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as members:
            yield members
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # not zipfile's: the disk is full, or the file cannot be read
        kind = "damaged" if zipfile.is_zipfile(archive) or archive.suffix in (".zip", ".whl") else "not a zip archive"
        raise EffirError(f"{archive} is {kind} ({error}): delete and download it again, or pack it as a zip") from None


def _extract(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], into: Path, limit: int, name: Path) -> None:
    for member in members:
        if flaw := _flaw(member):
            raise EffirError(f"{name} has {member.filename!r}, {flaw}: do not trust it, get it from its publisher")
    left = limit
    for member in members:
        target = into / member.filename
        try:
            (target if member.is_dir() else target.parent).mkdir(parents=True, exist_ok=True)
            if not member.is_dir():
                with archive.open(member) as source, target.open("xb") as sink:
                    while left >= 0 and (chunk := source.read(CHUNK)):
                        left -= sink.write(chunk)
        except (FileExistsError, NotADirectoryError):
            raise EffirError(f"{name} has {member.filename!r} twice, or as file and folder: pack it again") from None
        if left < 0:
            raise EffirError(f"{name} unpacks to more than {limit:,} bytes: raise the limit only if you trust it")


def _flaw(member: zipfile.ZipInfo) -> str:
    """Name what makes a member hostile, otherwise return ""; names are read as on Windows, which is stricter."""
    path = PureWindowsPath(member.filename)
    if path.anchor:
        return "an absolute path"
    if ".." in path.parts or "\\" in member.orig_filename:
        return "a path that leaves the folder or is written for another system"
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or device"
    return "an encrypted member" if member.flag_bits & 1 else ""
