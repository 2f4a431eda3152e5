"""A teacher's opinion of training texts, computed once and kept: vectors of a bi-encoder, scores of a cross-encoder."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effir.data.examples import Example
from effir.errors import EffirError
from effir.files import read_json, require, write_json, writing
from effir.ranking import Teacher
from effir.shards import Vectors, encode_shards

MANIFEST = "teacher.json"
SHARD = 512
"""Texts, or pairs of them, that a killed run has to repeat at most."""
BATCH = 32
QUERIES, DOCUMENTS, PAIRS = "queries", "documents", "pairs"

Read = Callable[[list[str]], Vectors]


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
        raise EffirError("a cross-encoder has no vectors to learn: set finetune.teacher_vectors to 0")

    def scores(self, rows: Tensor) -> Tensor:
        """Return its scores of each query's own documents, NaN elsewhere."""
        own = torch.from_numpy(self.own[rows.cpu().numpy()])
        count, documents = own.shape
        found = torch.full((count, documents, count), torch.nan)
        each = torch.arange(count)
        found[each, :, each] = own
        return found.reshape(count, documents * count)


def surely_negative(examples: Sequence[Example], own: NDArray[np.float32], margin: float, count: int) -> list[Example]:
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


def teach(source: str, folder: Path, examples: Sequence[Example], into: Path, *, max_tokens: int, work: Path) -> str:
    """Let the model in ``folder`` read all texts of ``examples`` and keep its opinion as ``into``; returns its kind.

    A bi-encoder is asked for vectors of queries and documents, a cross-encoder for a score a pair of a query and one
    of its own documents. A text is cut at ``max_tokens``, a pair at twice as many, or at what the model can read. A
    killed run goes on from its last shard in ``work``. EffirError: a folder that is neither.
    """
    kind = kind_of(folder)
    asked = {example.query for example in examples}
    judged = {text for example in examples for text in (example.positive, *example.negatives)}
    pairs = {pair for example in examples for pair in _pairs(example)}
    with writing(into) as draft:
        draft.mkdir()
        if kind == "bi-encoder":
            for name, texts in ((QUERIES, asked), (DOCUMENTS, judged)):
                _keep(draft, name, sorted(texts), _vectors(folder, name, max_tokens), work, np.float16)
        else:
            _keep(draft, PAIRS, sorted(pairs), _judge(folder, max_tokens), work, np.float32)
        write_json(draft / MANIFEST, {"source": source, "kind": kind, "max_tokens": max_tokens})
    shutil.rmtree(work, ignore_errors=True)
    return kind


def no_teacher(into: Path) -> None:
    """Keep that there is none."""
    with writing(into) as draft:
        draft.mkdir()
        write_json(draft / MANIFEST, {"source": ""})


def load_teacher(folder: Path, examples: Sequence[Example]) -> Teacher | None:
    """Open what :func:`teach` kept, for examples whose texts it read; None where there is no teacher.

    EffirError where it read other texts.
    """
    manifest = read_json(folder / MANIFEST, made_by="teach")
    if not manifest["source"]:
        return None
    if manifest["kind"] == "cross-encoder":
        rows = _rows(folder, PAIRS, (pair for example in examples for pair in _pairs(example)))
        scores: NDArray[np.float32] = np.load(folder / f"{PAIRS}.npy")[rows, 0]
        return CrossEncoder(scores.reshape(len(examples), -1))
    documents = _rows(folder, DOCUMENTS, (text for e in examples for text in (e.positive, *e.negatives)))
    return BiEncoder(
        np.load(folder / f"{QUERIES}.npy", mmap_mode="r"),
        np.load(folder / f"{DOCUMENTS}.npy", mmap_mode="r"),
        _rows(folder, QUERIES, (example.query for example in examples)),
        documents.reshape(len(examples), -1),
    )


def taught_examples(
    folder: Path, examples: Sequence[Example], margin: float, count: int
) -> tuple[list[Example], Teacher | None]:
    """Choose ``count`` hard negatives for each example, by the teacher where there is one, and return both.

    Without one they are the first; see :func:`surely_negative` and :func:`load_teacher`.
    """
    teacher = load_teacher(folder, examples)
    if teacher is None:
        return [replace(example, negatives=example.negatives[:count]) for example in examples], None
    chosen = surely_negative(examples, teacher.own, margin, count)
    return chosen, load_teacher(folder, chosen)


def kind_of(folder: Path) -> str:
    """Tell ``bi-encoder`` and ``cross-encoder`` apart by their files; EffirError where it is neither.

    sentence-transformers saves both as modules and says which in a file of its own, which older folders lack.
    """
    own, config = (
        read_json(folder / name, "teach") if (folder / name).is_file() else {}
        for name in ("config_sentence_transformers.json", "config.json")
    )
    classifies = any("SequenceClassification" in name for name in config.get("architectures") or ())
    if own.get("model_type") == "CrossEncoder" or (classifies and not (folder / "modules.json").is_file()):
        if len(config.get("id2label") or [1]) > 1:
            raise EffirError(f"{folder} sorts into several classes: finetune.teacher must give one score a pair")
        return "cross-encoder"
    if (folder / "modules.json").is_file():
        return "bi-encoder"
    raise EffirError(
        f"{folder} is no teacher: finetune.teacher must name a sentence-transformers folder or a cross-encoder"
    )


def _pairs(example: Example) -> list[str]:
    return [json.dumps([example.query, text]) for text in (example.positive, *example.negatives)]


def _vectors(folder: Path, name: str, max_tokens: int) -> Read:
    from sentence_transformers import SentenceTransformer

    model: Any = SentenceTransformer(str(folder))
    model.max_seq_length = min(max_tokens, model.max_seq_length or max_tokens)
    prompt = {QUERIES: "query", DOCUMENTS: "document"}[name]
    named = {"prompt_name": prompt} if prompt in model.prompts else {}
    return partial(model.encode, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False, **named)


def _judge(folder: Path, max_tokens: int) -> Read:
    from sentence_transformers import CrossEncoder as Judge

    model: Any = Judge(str(folder))
    model.max_seq_length = min(2 * max_tokens, model.max_seq_length or 2 * max_tokens)
    plain = torch.nn.Identity()  # logits: the loss has a softmax of its own

    def judge(pairs: list[str]) -> Vectors:
        texts = [tuple(json.loads(pair)) for pair in pairs]
        found = model.predict(texts, batch_size=BATCH, activation_fn=plain, show_progress_bar=False)
        return np.asarray(found, dtype=np.float32).reshape(-1, 1)

    return judge


def _keep(into: Path, name: str, texts: Sequence[str], read: Read, work: Path, dtype: Any) -> None:
    """Write what ``read`` gives for each text, and the digests by which it is found again."""
    place = work / name
    shards = list(encode_shards(((str(i), "", text) for i, text in enumerate(texts)), read, place, SHARD))
    shape = (len(texts), shards[0].dimension)
    kept = np.lib.format.open_memmap(into / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
    for shard in shards:
        start = shard.number * SHARD
        kept[start : start + shard.documents] = np.load(shard.vectors(place))
    kept.flush()
    (into / f"{name}.txt").write_text("".join(f"{_digest(text)}\n" for text in texts), encoding="ascii")


def _rows(folder: Path, name: str, texts: Iterable[str]) -> NDArray[np.int64]:
    lines = require(folder / f"{name}.txt", made_by="teach").read_text(encoding="ascii").split()
    row_of = {digest: row for row, digest in enumerate(lines)}
    try:
        return np.array([row_of[_digest(text)] for text in texts], dtype=np.int64)
    except KeyError:
        raise EffirError(f"{folder} was taught on other texts: run `dvc repro teach`") from None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
