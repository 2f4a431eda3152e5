#!/usr/bin/env bash
# beir 2.2.0: `download_and_unzip` keeps the body of a 404 answer as the archive, and never downloads again.
#
# Seen: the first call, while the server answers 404, raises BadZipFile. The second, when the server has the archive,
# raises BadZipFile too and sends no request: the page of the 404 lies there as `tiny.zip`, and only the file's existence is
# checked. Expected: an HTTP error, nothing written, and a download at the second call.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3.11 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 requests==2.34.2 tqdm==4.70.1 2> pip.err || { cat pip.err; exit 1; }
env/bin/pip install --quiet --disable-pip-version-check --no-deps beir==2.2.0 2> pip.err || { cat pip.err; exit 1; }
env/bin/python - <<'END'
import functools, http.server, os, threading, zipfile

from beir import util

asked = []


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        asked.append(self.path)


os.mkdir("served")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory="served"))
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/tiny.zip"


def attempt():
    before = len(asked)
    try:
        util.download_and_unzip(url, "data")
        outcome = "unpacked"
    except Exception as error:
        outcome = type(error).__name__
    return outcome, len(asked) > before


first = attempt()
with zipfile.ZipFile("served/tiny.zip", "w") as archive:
    archive.writestr("tiny/corpus.jsonl", '{"_id": "1", "text": "a"}\n')
second = attempt()
kept = open("data/tiny.zip", "rb").read(15)
print(f"404: {first[0]}, asked the server: {first[1]}; then 200: {second[0]}, asked the server: {second[1]}; kept: {kept!r}")
assert first == ("BadZipFile", True)
assert second == ("BadZipFile", False)
assert kept.lower() == b"<!doctype html>"
END
