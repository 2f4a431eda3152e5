"""Cached teacher outputs: vectors of a bi-encoder or scores of a cross-encoder, by the digest of each text."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effir.data.examples import Example
from effir.errors import EffirError
from effir.files import read_json, require, text_digest, write_json, writing

MANIFEST = "teacher.json"
QUERIES, DOCUMENTS, PAIRS = "queries", "documents", "pairs"
"""What is cached: each is a file ``.npy`` of rows and a file ``.txt`` of the digests of their texts."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class BiEncoderOutputs:
    """Unit vectors of texts; ``query`` (examples,) and ``document`` (examples, 1 + negatives) are their rows."""

    queries: NDArray[np.float16]
    documents: NDArray[np.float16]
    query: Rows
    document: Rows

    @property
    def own_scores(self) -> NDArray[np.float32]:
        """Cosines of each query with its example's documents, (examples, 1 + negatives), positives first."""
        parts = np.array_split(np.arange(len(self.query)), 1 + len(self.query) // 1024)
        return np.concatenate([np.einsum("nd,nkd->nk", *self._vectors_of(rows)) for rows in parts])

    def vectors(self, rows: Tensor) -> Tensor:
        """Return unit vectors of all texts of the examples ``rows`` (queries,): (queries x (2 + negatives), dimension).

        Queries come first, then documents in the order of :meth:`scores`.
        """
        queries, documents = self._vectors_of(rows.cpu().numpy())
        return torch.from_numpy(np.concatenate([queries, documents.swapaxes(0, 1).reshape(-1, queries.shape[1])]))

    def scores(self, rows: Tensor) -> Tensor:
        """Return cosines of the queries and documents of the examples ``rows``: (queries, queries x (1 + negatives)).

        Columns are all positives, then all first negatives, and so on, as in the ranking loss.
        """
        vectors = self.vectors(rows)
        return vectors[: len(rows)] @ vectors[len(rows) :].T

    def with_documents(self, columns: Rows) -> "BiEncoderOutputs":
        """Keep of each example the documents in ``columns`` (examples, kept)."""
        return replace(self, document=np.take_along_axis(self.document, columns, axis=1))

    def _vectors_of(self, rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        queries, documents = self.queries[self.query[rows]], self.documents[self.document[rows]]
        return np.asarray(queries, dtype=np.float32), np.asarray(documents, dtype=np.float32)


@dataclass(frozen=True)
class CrossEncoderOutputs:
    """Scores of each query with its example's documents, (examples, 1 + negatives), and with no other document."""

    own_scores: NDArray[np.float32]

    def vectors(self, rows: Tensor) -> Tensor:
        """Raise EffirError."""
        raise EffirError("a cross-encoder has no vectors to distil: set their weight to 0")

    def scores(self, rows: Tensor) -> Tensor:
        """Return the scores of each query's own documents, NaN for the others; columns as of a bi-encoder."""
        own = torch.from_numpy(self.own_scores[rows.cpu().numpy()])
        count, documents = own.shape
        scores = torch.full((count, documents, count), torch.nan)
        each = torch.arange(count)
        scores[each, :, each] = own
        return scores.reshape(count, documents * count)

    def with_documents(self, columns: Rows) -> "CrossEncoderOutputs":
        """Keep of each example the documents in ``columns`` (examples, kept)."""
        return CrossEncoderOutputs(np.take_along_axis(self.own_scores, columns, axis=1))


Outputs = BiEncoderOutputs | CrossEncoderOutputs


def load_teacher(folder: Path, examples: Sequence[Example]) -> Outputs | None:
    """Open the cached outputs for ``examples``; None without a teacher.

    EffirError if a text of the examples was not scored.
    """
    manifest = read_json(folder / MANIFEST)
    if not manifest["source"]:
        return None
    if manifest["kind"] == "cross-encoder":
        rows = _rows(folder, PAIRS, (pair for example in examples for pair in pairs_of(example)))
        scores: NDArray[np.float32] = np.load(folder / f"{PAIRS}.npy")[rows, 0]
        return CrossEncoderOutputs(scores.reshape(len(examples), -1))
    documents = (text for example in examples for text in (example.positive, *example.negatives))
    queries, vectors = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in (QUERIES, DOCUMENTS))
    query = _rows(folder, QUERIES, (example.query for example in examples))
    return BiEncoderOutputs(queries, vectors, query, _rows(folder, DOCUMENTS, documents).reshape(len(examples), -1))


def _rows(folder: Path, name: str, texts: Iterable[str]) -> Rows:
    lines = require(folder / f"{name}.txt").read_text(encoding="ascii").split()
    row_of = {line: row for row, line in enumerate(lines)}
    try:
        return np.array([row_of[text_digest(text)] for text in texts], dtype=np.int64)
    except KeyError:
        raise EffirError(f"{folder} has no teacher scores of some training texts: make it again from them") from None


def write_no_teacher(into: Path) -> None:
    """Record that there is no teacher."""
    with writing(into) as draft:
        draft.mkdir()
        write_json(draft / MANIFEST, {"source": ""})


def pairs_of(example: Example) -> list[str]:
    """Return the query with each document of its example, the positive first, as JSON."""
    return [json.dumps([example.query, text]) for text in (example.positive, *example.negatives)]
