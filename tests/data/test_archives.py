"""Zip archives: extracted atomically, and refused if they are damaged or hostile."""

import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from effir.data.archives import unpack
from effir.errors import EffirError


def zipped(path: Path, **members: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def files_under(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_an_archive_unpacks_to_its_members(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", **{"top/x.txt": "x", "top/deep/y.txt": "y", "top/empty/": ""})
    unpack(archive, tmp_path / "out", limit=2)  # x and y: two bytes exactly
    assert files_under(tmp_path / "out") == ["top/deep/y.txt", "top/x.txt"]
    assert (tmp_path / "out" / "top" / "empty").is_dir()


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("link")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def encrypted(path: Path) -> None:
    # Flag bit 0 of general purpose, in the local header (offset 6) and in the central one (offset 8).
    content = bytearray(zipped(path, a="a").read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(signature) + offset] |= 1
    path.write_bytes(content)


def lying(path: Path) -> None:
    # A central header that declares one byte where a million follow (uncompressed size: offset 24, 4 bytes).
    content = bytearray(zipped(path, a="0" * 1_000_000).read_bytes())
    where = content.find(b"PK\x01\x02") + 24
    content[where : where + 4] = (1).to_bytes(4, "little")
    path.write_bytes(content)


def flipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a", "content")
    path.write_bytes(path.read_bytes().replace(b"content", b"c0ntent", 1))


def truncated(path: Path) -> None:
    path.write_bytes(zipped(path, a="a" * 1000).read_bytes()[:-40])


def beheaded(path: Path) -> None:
    path.write_bytes(zipped(path, a="content").read_bytes()[1:])


def twice(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings(action="ignore"):
        archive.writestr("a", "x")
        archive.writestr("a", "y")


def holding(name: str | zipfile.ZipInfo) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("innocent", "x")
            archive.writestr(name, "/etc/passwd")

    return write


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (holding("/etc/evil"), "an absolute path"),
        (holding("C:evil"), "an absolute path"),
        (holding("../evil"), "leaves the folder"),
        (holding("a/../../evil"), "leaves the folder"),
        (holding("..\\evil"), "leaves the folder"),
        (holding(link()), "a link or device"),
        (twice, "twice"),
        (holding("innocent/below"), "as file and folder"),
        (encrypted, "an encrypted member"),
        (lying, "damaged"),
        (flipped, "damaged"),
        (truncated, "damaged"),
        (beheaded, "damaged"),
        (lambda path: path.write_bytes(b"\x1f\x8b not a zip"), "damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_hostile_or_damaged_archive_is_refused_and_leaves_nothing(
    make: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    archive = tmp_path / "box" / "a.zip"
    archive.parent.mkdir()
    make(archive)
    with pytest.raises(EffirError, match=says) as raised:
        unpack(archive, tmp_path / "box" / "out", limit=1000)
    assert str(archive) in str(raised.value)
    assert files_under(tmp_path) == ["box/a.zip"]


def test_an_archive_that_unpacks_to_more_than_the_limit_is_refused_and_what_stood_there_stays(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "bomb.zip", a="0" * 600, b="0" * 401)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "before").write_text("kept")
    with pytest.raises(EffirError, match="unpacks to more than 1,000 bytes"):
        unpack(archive, tmp_path / "out", limit=1000)
    assert files_under(tmp_path / "out") == ["before"]


def test_another_format_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(EffirError, match=r"a\.tar\.gz is not a zip archive .* pack it as a zip"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out", limit=1)
