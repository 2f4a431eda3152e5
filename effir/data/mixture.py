"""Several training collections as one, in given shares."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from effir.data.beir import Collection, Document, write_collection
from effir.data.examples import MIXTURE
from effir.errors import EffirError
from effir.files import read_json, write_json

SPLIT, SOURCES = "train", "SOURCES.json"


def shares(counts: Mapping[str, int], weights: Mapping[str, float]) -> dict[str, int]:
    """Say how many of each part's ``counts`` to take, in proportion to ``weights`` and as many as there are.

    >>> shares({"a": 100, "b": 1000}, {"a": 1, "b": 2})
    {'a': 100, 'b': 200}
    """
    most = min(count / weights[name] for name, count in counts.items())
    return {name: max(1, round(most * weights[name])) for name in counts}


def mix(parts: Mapping[str, Collection], weights: Mapping[str, float], into: Path) -> Collection:
    """Write one collection of the train splits of ``parts``: all documents, and queries in proportion to ``weights``.

    Ids become ``<part>/<id>``. Of a part that has more queries than its share, those whose id has the lowest SHA-256
    are taken. Corpora are streamed, ``SOURCES.json`` with the licences is put together, ``mixture.json`` says how many
    queries each part has. EffirError where a part has no train split, or an empty one.
    """
    for name, part in parts.items():
        if SPLIT not in part.splits:
            raise EffirError(f"data.train: {name} has no train split, only {', '.join(part.splits)}: name another set")
    asked = {name: part.queries(SPLIT) for name, part in parts.items()}
    for name, queries in asked.items():
        if not queries:
            raise EffirError(f"data.train: {name} judges no query in its train split: name another set")
    wanted = shares({name: len(queries) for name, queries in asked.items()}, weights)
    chosen = {name: _drawn(queries, wanted[name]) for name, queries in asked.items()}
    queries = {f"{name}/{id_}": text for name, texts in chosen.items() for id_, text in texts.items()}
    judged = {
        f"{name}/{query}": {f"{name}/{document}": grade for document, grade in grades.items()}
        for name, part in parts.items()
        for query, grades in part.judgements(SPLIT).items()
        if query in chosen[name]
    }
    mixed = write_collection(into, _documents(parts), queries, {SPLIT: judged})
    write_json(into / MIXTURE, {name: len(texts) for name, texts in chosen.items()})
    write_json(into / SOURCES, [source for name, part in parts.items() for source in _sources(name, part.folder)])
    return mixed


def _sources(name: str, folder: Path) -> list[dict[str, Any]]:
    path = folder / SOURCES
    return list(read_json(path)) if path.exists() else [{"name": name}]


def _drawn(queries: Mapping[str, str], count: int) -> dict[str, str]:
    ranked = sorted(queries, key=lambda id_: hashlib.sha256(id_.encode()).digest())
    kept = set(ranked[:count])
    return {id_: text for id_, text in queries.items() if id_ in kept}


def _documents(parts: Mapping[str, Collection]) -> Iterator[Document]:
    for name, part in parts.items():
        yield from (Document(f"{name}/{d.id}", d.title, d.text) for d in part.documents())
