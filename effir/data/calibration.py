"""The texts that redundancy is measured on."""

import gzip
import heapq
import json
from collections.abc import Iterator
from pathlib import Path

from effir.data.beir import Collection
from effir.data.catalog import Sources, install_collection
from effir.data.sources import fetch
from effir.errors import EffirError
from effir.files import scratch, text_digest, write_jsonl

MOST = 2048
"""The number of texts that are kept."""


def install_calibration(source: str, train: Collection, into: Path, cache: Path, collections: Sources) -> None:
    """Write ``into``, a JSON-lines file of ``{"text"}``, from the training corpus (``train``), a collection or a file.

    Documents of a corpus are taken in the order of the SHA-256 of their id, so the order of the corpus does not bias
    the sample. A collection is named as in ``collections``. Any other source is a JSON-lines file, plain or gzip,
    whose lines have a ``text``; the first lines are taken.
    """
    if source == "train":
        texts = _sample(train)
    elif source in collections:
        with scratch(cache / "calibration") as folder:
            texts = _sample(
                install_collection(source, folder / source, mirror="", collections=collections, cache=cache)
            )
    else:
        texts = list(_read(source, cache))
    write_jsonl(into, ({"text": text} for text in texts))


def load_calibration(path: Path, count: int) -> list[str]:
    """Read the first ``count`` texts; EffirError if there are fewer."""
    with path.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(count), strict=False)]
    if len(texts) < count:
        raise EffirError(f"{path} has {len(texts)} texts, but {count} are wanted: ask for fewer, or enlarge it")
    return texts


def _sample(corpus: Collection) -> list[str]:
    ranked = ((text_digest(d.id), d.content) for d in corpus.documents())
    return [text for _, text in heapq.nsmallest(MOST, ranked)]


def _read(source: str, cache: Path) -> Iterator[str]:
    path = fetch(source, cache)
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            for line, _ in zip(lines, range(MOST), strict=False):
                text = json.loads(line)["text"]
                if not isinstance(text, str):
                    raise TypeError
                yield text
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError, OSError, EOFError):
        raise EffirError(f"data.calibration: {source} is not JSON lines with a `text` each: replace it") from None
