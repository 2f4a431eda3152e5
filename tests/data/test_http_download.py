"""Downloads over HTTP, through `fetch`: reused, resumed, and held to their hash."""

import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from effir.data.sources import fetch
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
    with pytest.raises(EffirError, match="broke off after 262,144 bytes: run again to resume"):
        fetch(url(server), tmp_path)
    server.cut = None
    assert fetch(url(server), tmp_path).read_bytes() == BODY
    assert server.ranges == [None, "bytes=262144-"]  # 4 chunks of 65,536


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
