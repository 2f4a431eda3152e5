"""Download a file over HTTP, and resume a download that broke off."""

import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
from tqdm import tqdm

from effir.errors import EffirError

CHUNK = 1 << 16  # bytes; a broken transfer repeats at most one chunk
LARGE = 50_000_000
TIMEOUT = (10, 60)  # seconds to connect, and between two chunks


def download(url: str, folder: Path) -> Path:
    """Download ``url`` into ``folder``. A partial file is kept, and resumed if the file of the server is the same.

    EffirError if the server cannot be reached, answers with an error, or breaks off.
    """
    part = folder / (Path(unquote(urlsplit(url).path)).name or "download")
    tag = folder / ".tag"
    validator = tag.read_text() if tag.exists() else ""
    start = part.stat().st_size if part.exists() and validator else 0
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 416:  # nothing is left to send: the last run was killed just before it finished
                part.unlink()
                return download(url, folder)
            answer.raise_for_status()
            _receive(answer, part, tag, start if answer.status_code == 206 else 0)
    except requests.RequestException as error:
        raise EffirError(_reason(url, error, part)) from None
    tag.unlink(missing_ok=True)
    return part


def _receive(answer: requests.Response, part: Path, tag: Path, start: int) -> None:
    rest = int(answer.headers.get("Content-Length", 0))
    if start + rest > LARGE:
        done, total = start / 1e6, (start + rest) / 1e6
        print(f"{answer.url} has {total:,.0f} MB, {done:,.0f} MB of them are here", file=sys.stderr)
    validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified", "")
    bar = tqdm(total=start + rest or None, initial=start, unit="B", unit_scale=True, desc=part.name, leave=False)
    with part.open("ab" if start else "wb") as stream, bar:
        if not start:  # the old part is truncated before the new tag is written: a kill in between mixes no two files
            tag.write_text("" if validator.startswith("W/") else validator)
        for chunk in answer.iter_content(CHUNK):
            bar.update(stream.write(chunk))
    if rest and part.stat().st_size != start + rest:
        raise requests.ConnectionError("the body is incomplete")


def _reason(url: str, error: requests.RequestException, part: Path) -> str:
    if error.response is not None:
        return f"{url} answered {error.response.status_code} {error.response.reason}: check the address"
    if part.exists() and part.stat().st_size:
        return f"{url} broke off after {part.stat().st_size:,} bytes: run again to resume"
    return f"{url} could not be reached ({type(error).__name__}): check the address and the network, or name a mirror"
