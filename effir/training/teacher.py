"""A teacher's opinion of training texts, as it was kept: vectors of a bi-encoder, scores of a cross-encoder."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.util import dot_score, semantic_search
from torch import Tensor

from effir.data.examples import Example
from effir.errors import EffirError
from effir.files import read_json, require
from effir.training.losses import Teacher
from effir.training.opinions import DOCUMENTS, MANIFEST, PAIRS, QUERIES, digest, pairs_of

CANDIDATES = 30
"""Documents that the teacher ranks highest, among which hard negatives are looked for."""


@dataclass(frozen=True)
class BiEncoder:
    """Unit vectors of all texts; ``query`` (examples,) and ``document`` (examples, 1 + negatives) are their rows."""

    queries: NDArray[np.float16]
    documents: NDArray[np.float16]
    query: NDArray[np.int64]
    document: NDArray[np.int64]

    @property
    def own(self) -> NDArray[np.float32]:
        """Cosines of each query with its own documents, (examples, 1 + negatives)."""
        rows = np.array_split(np.arange(len(self.query)), 1 + len(self.query) // 1024)
        found = [np.einsum("nd,nkd->nk", self._asked(some), self._judged(some)) for some in rows]
        return np.concatenate(found)

    def vectors(self, rows: Tensor) -> Tensor:
        """Return unit vectors of all texts of a batch, the queries first: (queries x (2 + negatives), dimension)."""
        chosen = rows.cpu().numpy()
        asked = self._asked(chosen)
        return torch.from_numpy(
            np.concatenate([asked, self._judged(chosen).swapaxes(0, 1).reshape(-1, asked.shape[1])])
        )

    def scores(self, rows: Tensor) -> Tensor:
        """Return cosines of every query with every document of the batch."""
        found = self.vectors(rows)
        return found[: len(rows)] @ found[len(rows) :].T

    def _asked(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(self.queries[self.query[rows]], dtype=np.float32)

    def _judged(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(self.documents[self.document[rows]], dtype=np.float32)


@dataclass(frozen=True)
class CrossEncoder:
    """Scores of each example's own documents, (examples, 1 + negatives); of nobody else's it has no opinion."""

    own: NDArray[np.float32]

    def vectors(self, rows: Tensor) -> Tensor:
        """Refuse: EffirError."""
        raise EffirError("a cross-encoder has no vectors to learn: weigh them by 0")

    def scores(self, rows: Tensor) -> Tensor:
        """Return its scores of each query's own documents, NaN elsewhere."""
        own = torch.from_numpy(self.own[rows.cpu().numpy()])
        count, documents = own.shape
        found = torch.full((count, documents, count), torch.nan)
        each = torch.arange(count)
        found[each, :, each] = own
        return found.reshape(count, documents * count)


def without_false_negatives(
    examples: Sequence[Example], own: NDArray[np.float32], margin: float, count: int
) -> list[Example]:
    """Keep of each example's negatives the ``count`` hardest that are surely none of its answers, in their order.

    Those are the ones that the teacher scores, ``own`` (examples, 1 + negatives), below its positive less ``margin``.
    Where they are too few, the others with the lowest scores fill up.
    """
    chosen = []
    for example, (positive, *others) in zip(examples, own.tolist(), strict=True):
        sure = [i for i, score in enumerate(others) if score < positive - margin]
        doubtful = sorted(set(range(len(others))) - set(sure), key=lambda i: others[i])
        kept = [*sure, *doubtful][:count]
        chosen.append(replace(example, negatives=tuple(example.negatives[i] for i in kept)))
    return chosen


def mined_by_teacher(examples: Sequence[Example], teacher: BiEncoder, count: int) -> list[Example]:
    """Give each example the ``count`` documents that the teacher ranks highest and that are no answers of its query.

    Searched are all documents of all examples, as in "ANCE" (Xiong et al., 2021), once. An answer is a positive of
    any example with the same query.
    """
    row_of: dict[str, int] = {}
    answers: dict[str, set[int]] = defaultdict(set)
    for example, rows in zip(examples, teacher.document.tolist(), strict=True):
        row_of |= dict(zip((example.positive, *example.negatives), rows, strict=True))
        answers[example.query].add(rows[0])
    texts, rows = list(row_of), np.array(list(row_of.values()))
    asked, searched = (
        torch.from_numpy(np.asarray(vectors[some], dtype=np.float32))
        for vectors, some in ((teacher.queries, teacher.query), (teacher.documents, rows))
    )
    found = semantic_search(asked, searched, top_k=count + max(map(len, answers.values())), score_function=dot_score)
    ranked = ([int(hit["corpus_id"]) for hit in hits] for hits in found)
    foreign = [[i for i in near if rows[i] not in answers[e.query]] for e, near in zip(examples, ranked, strict=True)]
    count = min([count, *map(len, foreign)])  # as many for each
    return [
        replace(example, negatives=tuple(texts[i] for i in near[:count]))
        for example, near in zip(examples, foreign, strict=True)
    ]


def load_teacher(folder: Path, examples: Sequence[Example]) -> Teacher | None:
    """Open what the stage `teach` kept, for examples whose texts it read; None where there is no teacher.

    EffirError where it read other texts.
    """
    manifest = read_json(folder / MANIFEST)
    if not manifest["source"]:
        return None
    if manifest["kind"] == "cross-encoder":
        rows = _rows(folder, PAIRS, (pair for example in examples for pair in pairs_of(example)))
        scores: NDArray[np.float32] = np.load(folder / f"{PAIRS}.npy")[rows, 0]
        return CrossEncoder(scores.reshape(len(examples), -1))
    return BiEncoder(
        np.load(folder / f"{QUERIES}.npy", mmap_mode="r"),
        np.load(folder / f"{DOCUMENTS}.npy", mmap_mode="r"),
        _rows(folder, QUERIES, (example.query for example in examples)),
        _documents(folder, examples),
    )


def with_hard_negatives(
    folder: Path, examples: Sequence[Example], margin: float, count: int, miner: Literal["bm25", "teacher"] = "bm25"
) -> tuple[list[Example], Teacher | None]:
    """Choose ``count`` hard negatives for each example, by the teacher where there is one, and return both.

    Without one they are the first. With the ``miner`` ``teacher`` they are its own, not those that the examples bring:
    see :func:`without_false_negatives`, :func:`confused` and :func:`load_teacher`. EffirError: a cross-encoder, which cannot
    search.
    """
    teacher = load_teacher(folder, examples)
    if teacher is None:
        return [replace(example, negatives=example.negatives[:count]) for example in examples], None
    if miner == "teacher":
        if not isinstance(teacher, BiEncoder):
            raise EffirError("training.teacher is a cross-encoder, which cannot search: set training.miner to bm25")
        examples = mined_by_teacher(examples, teacher, max(CANDIDATES, count))
        if len(examples[0].negatives) < count:
            raise EffirError(
                f"the teacher finds {len(examples[0].negatives)} documents that are no answers, fewer than "
                f"training.negatives = {count}: lower it, or raise training.examples"
            )
        teacher = BiEncoder(teacher.queries, teacher.documents, teacher.query, _documents(folder, examples))
    chosen = without_false_negatives(examples, teacher.own, margin, count)
    return chosen, load_teacher(folder, chosen)


def _documents(folder: Path, examples: Sequence[Example]) -> NDArray[np.int64]:
    found = _rows(folder, DOCUMENTS, (text for e in examples for text in (e.positive, *e.negatives)))
    return found.reshape(len(examples), -1)


def _rows(folder: Path, name: str, texts: Iterable[str]) -> NDArray[np.int64]:
    lines = require(folder / f"{name}.txt").read_text(encoding="ascii").split()
    row_of = {line: row for row, line in enumerate(lines)}
    try:
        return np.array([row_of[digest(text)] for text in texts], dtype=np.int64)
    except KeyError:
        raise EffirError(f"{folder} was taught on other texts: run `dvc repro teach`") from None
