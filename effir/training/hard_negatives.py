"""Choose training examples and their hard negatives, by the teacher if there is one."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from effir.data.examples import Example
from effir.errors import EffirError
from effir.files import text_digest
from effir.training.teacher import BiEncoderOutputs, Outputs, Rows, load_teacher

CANDIDATES = 30
"""The documents that the teacher ranks highest and that hard negatives are chosen from."""


def draw_examples(examples: Sequence[Example], count: int) -> list[Example]:
    """Take the ``count`` examples whose queries have the lowest SHA-256, in their order; all of them with 0.

    >>> [e.query for e in draw_examples([Example(query, "", ()) for query in "abcd"], 2)]
    ['c', 'd']
    """
    if not 0 < count < len(examples):
        return list(examples)
    last = sorted(text_digest(example.query) for example in examples)[count - 1]
    return [example for example in examples if text_digest(example.query) <= last][:count]


def with_hard_negatives(
    folder: Path, examples: Sequence[Example], margin: float, count: int, miner: Literal["bm25", "teacher"] = "bm25"
) -> tuple[list[Example], Outputs | None]:
    """Choose ``count`` hard negatives per example; return the examples and the teacher's outputs for them.

    Without a teacher in ``folder`` the first negatives are taken, otherwise those of :func:`safe_negatives`. The
    ``miner`` ``teacher`` replaces the negatives of the examples by those of :func:`mined_by_teacher` first.
    EffirError for a cross-encoder as the miner.
    """
    teacher = load_teacher(folder, examples)
    if teacher is None:
        return [replace(example, negatives=example.negatives[:count]) for example in examples], None
    if miner == "teacher":
        if not isinstance(teacher, BiEncoderOutputs):
            raise EffirError("training.teacher is a cross-encoder, which cannot search: set training.miner to bm25")
        examples, teacher = mined_by_teacher(examples, teacher, max(CANDIDATES, count))
        if (most := len(examples[0].negatives)) < count:
            few = f"{most} documents that are not answers, fewer than training.negatives = {count}"
            raise EffirError(f"the teacher finds {few}: lower it, or raise training.examples")
    kept = safe_negatives(teacher.own_scores, margin, count)
    chosen = [
        replace(example, negatives=tuple(example.negatives[column - 1] for column in columns[1:]))
        for example, columns in zip(examples, kept.tolist(), strict=True)
    ]
    return chosen, teacher.with_documents(kept)


def safe_negatives(own_scores: NDArray[np.float32], margin: float, count: int) -> Rows:
    """Choose ``count`` negatives per example that are not answers: columns of ``own_scores``, the positive (0) first.

    ``own_scores`` (examples, 1 + negatives) is the teacher's. The first negatives below the positive's score minus
    ``margin`` are chosen. If there are too few, the lowest scores among the others follow.

    >>> safe_negatives(np.array([[0.8, 0.75, 0.6, 0.1]]), margin=0.1, count=2)
    array([[0, 2, 3]])
    """
    chosen = []
    for positive, *others in own_scores.tolist():
        safe = [i for i, score in enumerate(others) if score < positive - margin]
        unsafe = sorted(set(range(len(others))) - set(safe), key=lambda i: others[i])
        chosen.append([0, *(1 + i for i in [*safe, *unsafe][:count])])
    return np.array(chosen, dtype=np.int64)


def mined_by_teacher(
    examples: Sequence[Example], teacher: BiEncoderOutputs, count: int
) -> tuple[list[Example], BiEncoderOutputs]:
    """Give each example the ``count`` documents that the teacher ranks highest and that do not answer its query.

    All documents of all examples are searched, as in "ANCE" (Xiong et al., 2021), once. The answers of a query are the
    positives of all examples with this query. Fewer negatives are given where one example has fewer.
    """
    from sentence_transformers.util import dot_score, semantic_search

    row_of: dict[str, int] = {}
    answers: dict[str, set[int]] = defaultdict(set)
    for example, own in zip(examples, teacher.document.tolist(), strict=True):
        row_of |= dict(zip((example.positive, *example.negatives), own, strict=True))
        answers[example.query].add(own[0])
    texts, rows = list(row_of), np.array(list(row_of.values()))
    queries = torch.from_numpy(np.asarray(teacher.queries[teacher.query], dtype=np.float32))
    documents = torch.from_numpy(np.asarray(teacher.documents[rows], dtype=np.float32))
    top = count + max(map(len, answers.values()))
    hits = semantic_search(queries, documents, top_k=top, score_function=dot_score)
    ranked = [[int(hit["corpus_id"]) for hit in found] for found in hits]
    near = [[i for i in ids if rows[i] not in answers[e.query]] for e, ids in zip(examples, ranked, strict=True)]
    count = min([count, *map(len, near)])
    negatives = [tuple(texts[i] for i in ids[:count]) for ids in near]
    mined = [replace(example, negatives=some) for example, some in zip(examples, negatives, strict=True)]
    document = np.array([[own[0], *rows[ids[:count]]] for own, ids in zip(teacher.document, near, strict=True)])
    return mined, replace(teacher, document=document)
