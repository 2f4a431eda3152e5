"""A hub in a folder: the part of the Hugging Face Hub's protocol that its client needs to upload and download."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0" * 40


class Handler(BaseHTTPRequestHandler):
    """One request; repositories are folders ``team/name`` in ``root``, with one branch and one commit."""

    root: Path

    def do_POST(self) -> None:
        """Create a repository, answer how to send its files, or accept a commit of files."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer hf_tests":
            self._json({"error": "no token"}, 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            (self.root / name).mkdir(parents=True)
            self._json({"url": f"{self._address()}/{name}", "id": name})
        elif self.path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif self.path.endswith("/commit/main"):
            name = self.path.removeprefix("/api/models/").removesuffix("/commit/main")
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    path = self.root / name / line["value"]["path"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(base64.b64decode(line["value"]["content"]))
            self._json({"success": True, "commitOid": COMMIT, "commitUrl": f"{self._address()}/{name}/commit/{COMMIT}"})
        else:  # the client validates a model card
            self._json({"errors": [], "warnings": []})

    def do_GET(self) -> None:
        """Describe a repository, list its files, or send one."""
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name, files = "/".join(parts[2:4]), self._files("/".join(parts[2:4]))
            if "tree" in parts:
                self._json(
                    [
                        {"type": "file", "path": path, "size": len(data), "oid": sha1(data).hexdigest()}
                        for path, data in files.items()
                    ]
                )
            else:
                self._json(
                    {"id": name, "modelId": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in files]}
                )
        elif "resolve" in parts and (data := self._files("/".join(parts[:2])).get("/".join(parts[4:]))) is not None:
            self._send(data, 200, {"ETag": f'"{sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT})
        else:
            self._send(b"", 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})

    def do_HEAD(self) -> None:
        """Describe a file without sending it."""
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def _files(self, name: str) -> dict[str, bytes]:
        folder = self.root / name
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def _address(self) -> str:
        return f"http://{self.headers['Host']}"

    def _json(self, found: Any, status: int = 200) -> None:
        self._send(json.dumps(found).encode(), status, {"Content-Type": "application/json"})

    def _send(self, data: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def hub(root: Path) -> Iterator[str]:
    """Run a hub of the repositories in ``root`` in a thread; yield its address, for ``HF_ENDPOINT``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Handler,), {"root": root}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
