"""Training examples as the tables that sentence-transformers' trainer reads."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset

from effir.data.examples import Example
from effir.errors import EffirError


def by_part(examples: Sequence[Example], batch_size: int) -> dict[str, Dataset]:
    """Return the examples of each part of a mixture, as :func:`as_columns` does; without one, of the part ``""``.

    EffirError where a part cannot fill a batch.
    """
    rows: dict[str, list[int]] = {}
    for row, example in enumerate(examples):
        rows.setdefault(example.part, []).append(row)
    for name, chosen in (rows or {"": []}).items():
        if len(chosen) < batch_size:
            raise EffirError(
                f"{len(chosen)} training examples{' of ' + name if name else ''} cannot fill a batch of {batch_size}: "
                "lower batch_size" + (f", raise training.examples, or give {name} more weight" if name else "")
            )
    whole = as_columns(examples)
    return {name: whole.select(chosen) for name, chosen in rows.items()} if len(rows) > 1 else {"": whole}


def as_columns(examples: Sequence[Example]) -> Dataset:
    """Examples as a table with the columns query, positive, negative_1, negative_2, ..., and label: their row."""
    columns: dict[str, list[Any]] = {
        "query": [e.query for e in examples],
        "positive": [e.positive for e in examples],
    }
    for i in range(len(examples[0].negatives)):
        columns[f"negative_{i + 1}"] = [e.negatives[i] for e in examples]
    return Dataset.from_dict(columns | {"label": list(range(len(examples)))})
