"""The texts on which redundancy is measured."""

import gzip
import hashlib
import heapq
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from effir.data.beir import Collection, install_collection
from effir.data.sources import fetch
from effir.errors import EffirError
from effir.files import write_jsonl

MOST = 2048
"""Texts kept; `analyze` takes the first `analyze.texts` of them."""


def install_calibration(
    source: str, train: Collection, into: Path, cache: Path, collections: Mapping[str, str]
) -> None:
    """Write ``into``, a JSON-lines file of ``{"text"}``: of the training corpus (``train``), a collection, or a source.

    Documents of a corpus are taken in the order of the SHA-256 of their id: a sample that no sorting of the corpus
    biases. A collection is one of ``collections`` by name. Another source is a JSON-lines file, plain or gzip, whose
    lines hold ``text``; its first lines count.
    """
    if source == "train":
        texts = _sample(train)
    elif source in collections:
        folder = cache / "calibration"
        shutil.rmtree(folder, ignore_errors=True)  # what a killed run left
        texts = _sample(install_collection(source, folder, mirror="", collections=collections, cache=cache))
        shutil.rmtree(folder)
    else:
        texts = list(_read(source, cache))
    write_jsonl(into, ({"text": text} for text in texts))


def load_calibration(path: Path, count: int) -> list[str]:
    """Read the first ``count`` texts; EffirError where there are fewer."""
    with path.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(count), strict=False)]
    if len(texts) < count:
        raise EffirError(
            f"{path} holds {len(texts)} texts, {count} asked for: give more (data.calibration) or lower analyze.texts"
        )
    return texts


def _sample(corpus: Collection) -> list[str]:
    ranked = ((hashlib.sha256(d.id.encode()).hexdigest(), d.content) for d in corpus.documents())
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
        raise EffirError(
            f"data.calibration: {source} is not JSON lines with a `text` in each: mend or replace it"
        ) from None
