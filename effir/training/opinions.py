"""Of which examples a teacher is asked, and how its opinion lies on disk: by what a text is found again."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from effir.data.examples import Example
from effir.files import write_json, writing

MANIFEST = "teacher.json"
QUERIES, DOCUMENTS, PAIRS = "queries", "documents", "pairs"
"""What vectors or scores are of: the names of two files each, ``.npy`` and ``.txt``, the digests of the texts."""


def draw_examples(examples: Sequence[Example], count: int) -> list[Example]:
    """Take ``count`` examples, those whose query has the lowest SHA-256, in their order; all of them with 0.

    >>> [e.query for e in draw_examples([Example(query, "", ()) for query in "abcd"], 2)]
    ['c', 'd']
    """
    if not 0 < count < len(examples):
        return list(examples)
    last = sorted(digest(example.query) for example in examples)[count - 1]
    return [example for example in examples if digest(example.query) <= last][:count]


def write_no_teacher(into: Path) -> None:
    """Keep that there is none."""
    with writing(into) as draft:
        draft.mkdir()
        write_json(draft / MANIFEST, {"source": ""})


def pairs_of(example: Example) -> list[str]:
    """Return an example's query with each of its own documents, the positive first, as JSON."""
    return [json.dumps([example.query, text]) for text in (example.positive, *example.negatives)]


def digest(text: str) -> str:
    """Name a text in little space."""
    return hashlib.sha256(text.encode()).hexdigest()
