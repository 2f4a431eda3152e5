"""How a teacher's opinion lies on disk: which files, and by what a text is found again."""

import hashlib
import json
from pathlib import Path

from effir.data.examples import Example
from effir.files import write_json, writing

MANIFEST = "teacher.json"
QUERIES, DOCUMENTS, PAIRS = "queries", "documents", "pairs"
"""What vectors or scores are of: the names of two files each, ``.npy`` and ``.txt``, the digests of the texts."""


def no_teacher(into: Path) -> None:
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
