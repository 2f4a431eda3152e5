"""Files that were damaged at random: an archive, a checkpoint, params.yaml, a shard, the manifest of an index."""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, given, seed, settings

from effir.errors import EffirError
from tests.chaos.commands import FIRST
from tests.chaos.scenario import Trial

PARAMS = Path(__file__).parents[2] / "params.yaml"
Edit = tuple[str, float, bytes]
"""What is done, where (a share of the file), and with which bytes."""
KINDS_OF_EDIT = ("put", "insert", "cut", "truncate")
EDITS = st.lists(
    st.tuples(
        st.sampled_from(("put", "insert", "cut", "truncate")), st.floats(0, 1), st.binary(min_size=1, max_size=6)
    ),
    min_size=1,
    max_size=4,
)


def edited(content: bytes, edits: list[Edit]) -> bytes:
    """Apply edits to the bytes of a file."""
    for kind, where, new in edits:
        at = int(where * len(content))
        rest = {
            "put": content[at + len(new) :],
            "insert": content[at:],
            "cut": content[at + len(new) :],
            "truncate": b"",
        }
        content = content[:at] + (b"" if kind in ("cut", "truncate") else new) + rest[kind]
    return content


def tried(name: str, use: Callable[[list[Edit], int], None], from_seed: int, count: int) -> Trial:
    """Let ``use`` read ``count`` damaged files: it may succeed or raise EffirError, and nothing else."""
    outcomes = {"read": 0, "refused": 0}

    @seed(from_seed)
    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck),
              phases=[Phase.generate, Phase.shrink])  # fmt: skip
    @given(EDITS, st.integers(0, 99))
    def check(edits: list[Edit], which: int) -> None:
        try:
            use(edits, which)
        except EffirError as refusal:
            said = str(refusal).strip()
            outcomes["refused"] += 1
        else:
            said = ""
            outcomes["read"] += 1
        assert "\n" not in said, f"more than a sentence: {said}"

    try:
        check()
    except BaseException as fault:  # hypothesis raises the exception of the smallest example
        if isinstance(fault, KeyboardInterrupt):
            raise
        notes = " ".join(getattr(fault, "__notes__", ()))
        return Trial(f"damaged {name}", 0, "damaged", f"{type(fault).__name__}: {fault} {notes}"[:900])
    return Trial(f"damaged {name}", 0, f"{outcomes['read']} read, {outcomes['refused']} refused")


def archive(home: Path) -> Callable[[list[Edit], int], None]:
    """A zip of a collection; nothing may appear beside the folder that it is unpacked into."""
    from effir.data.beir import write_collection
    from effir.data.catalog import install_collection

    collection = write_collection(home / "set", FIRST, {"q": "w4"}, {"test": {"q": {"d4": 1}}})
    with zipfile.ZipFile(home / "set.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(p for p in collection.folder.rglob("*") if p.is_file()):
            packed.write(path, path.relative_to(home))
    good = (home / "set.zip").read_bytes()

    def use(edits: list[Edit], which: int) -> None:
        (home / "set.zip").write_bytes(edited(good, edits))
        into = home / "into"
        shutil.rmtree(into, ignore_errors=True)
        sources = {"mine": str(home / "set.zip")}
        try:
            found = install_collection("mine", into, mirror="", collections=sources, cache=home / "cache")
            list(found.documents()), found.queries("test"), found.qrels("test")
        finally:
            assert {path.name for path in home.iterdir()} <= {"cache", "set", "set.zip", "into"}, (
                "something is left beside it"
            )

    return use


def params(home: Path) -> Callable[[list[Edit], int], None]:
    """params.yaml."""
    from effir.params import load_params

    good, path = PARAMS.read_bytes(), home / "params.yaml"

    def use(edits: list[Edit], which: int) -> None:
        path.write_bytes(edited(good, edits))
        load_params(path)

    return use


def checkpoint(home: Path) -> Callable[[list[Edit], int], None]:
    """A checkpoint: a damaged one is removed, so that the training begins again and gives the same bits."""
    from effir.files import write_json
    from effir.training.checkpoints import SEAL, _hashes, last_checkpoint

    good = home / "good"
    good.mkdir()
    for number, name in enumerate(("optimizer.pt", "rng_state.pth", "trained.safetensors", "trainer_state.json")):
        (good / name).write_bytes(bytes(range(60 + number)))
    write_json(good / SEAL, _hashes(good))
    files = sorted(good.iterdir())

    def use(edits: list[Edit], which: int) -> None:
        folder = home / "work/checkpoint-3"
        shutil.rmtree(folder.parent, ignore_errors=True)
        shutil.copytree(good, folder)
        path = folder / files[which % len(files)].name
        path.write_bytes(edited(before := path.read_bytes(), edits))
        same = path.read_bytes().split() == before.split() if path.name == SEAL else path.read_bytes() == before
        if last_checkpoint(folder.parent) and not same:
            assert path.name == SEAL, f"a damaged {path.name} is trained on"
        elif not same:
            raise EffirError("refused")

    return use


def shards(home: Path) -> Callable[[list[Edit], int], None]:
    """Shards of a killed encoding: a damaged one is encoded again."""
    import numpy as np

    from effir.encoding.shards import encode_shards

    entries = [(f"d{i}", "", f"w{i}") for i in range(6)]
    encode: Any = lambda texts, report: np.array([[float(text[1:]), 1] for text in texts], dtype=np.float32)  # noqa: E731
    good = home / "good"
    list(encode_shards(entries, encode, good, 3))
    files = sorted(good.iterdir())

    def use(edits: list[Edit], which: int) -> None:
        work = home / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(good, work)
        path = work / files[which % len(files)].name
        path.write_bytes(edited(path.read_bytes(), edits))
        list(encode_shards(entries, encode, work, 3))
        for file in files:
            made, wanted = (work / file.name).read_bytes(), file.read_bytes()
            # In JSON a lost space is no damage.
            same = json.loads(made) == json.loads(wanted) if file.name == "manifest.json" else made == wanted
            assert same, f"{file.name} is another"

    return use


def manifest(home: Path) -> Callable[[list[Edit], int], None]:
    """The manifest of a document store and that of a segment."""
    import numpy as np

    from effir.serve.documents import DocumentStore, create_index
    from effir.serve.open_model import ServedModel

    def encode(texts: list[str], report: Any) -> Any:
        return np.ones((len(texts), 2), dtype=np.float32)

    create_index(home / "index", FIRST, encode, ServedModel("m", "m", "f"), "Flat")
    places = [home / "index/manifest.json", home / "index/segments/0001/manifest.json"]
    good = [path.read_bytes() for path in places]

    def use(edits: list[Edit], which: int) -> None:
        for path, content in zip(places, good, strict=True):
            path.write_bytes(content)
        places[which % 2].write_bytes(edited(good[which % 2], edits))
        DocumentStore(home / "index").search(np.ones((1, 2), dtype=np.float32), 5)

    return use


KINDS = {"archive": archive, "checkpoint": checkpoint, "params": params, "shards": shards, "manifest": manifest}


def damaged(work: Path, from_seed: int, count: int, done: dict[str, set[int]]) -> Iterator[Trial]:
    """Try each kind of file; ``count`` damages of each."""
    for name, make in KINDS.items():
        if f"damaged {name}" not in done:
            with tempfile.TemporaryDirectory(dir=work) as home:
                yield tried(name, make(Path(home).resolve()), from_seed, count)
