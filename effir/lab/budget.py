"""Minutes to steps: how much training fits into a given time, by the measured seconds of the default run."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, takewhile
from statistics import median

from effir.errors import EffirError

# The default run of 2026-11-27 (docs/results.md): SmolLM2-135M, 2 cores, bfloat16, 31 minutes in all. Its seconds:
# finetune_full 425, distill 314, finetune 373, self_teacher_scores 137, index 116, downloads and teacher_scores 100.
PAIR_SECONDS = {"finetune_full": 425 / (60 * 32), "distill": 314 / (120 * 8), "finetune": 373 / (60 * 32)}
"""Seconds that each training takes for a training pair in a batch."""
UNITS = {"finetune_full": 1, "distill": 2, "finetune": 1}
"""Steps of each training for one of finetune_full, as in the default run: 60, 120 and 60."""
EXAMPLE_SECONDS = (137 + 50) / 2000
"""What the two teachers take for a training question."""
DOCUMENT_SECONDS = 116 / 2656
"""What the retriever takes to encode a document. The uncompressed model takes twice as long."""
FIXED_SECONDS = 50 + 67 + 105 + 82 + 15
"""download, analyze, score_channels and prune_width, measure_cost, and the short stages."""
START_SECONDS = 126
"""All programs start and DVC checks its files, whatever the model."""
LEAST = 10
"""Steps of finetune_full, at least: a contrastive training of a language model does not move before."""
TELLING = 60
"""Seconds that a training is expected to take at least, if its measured time is to tell a machine's speed."""


@dataclass(frozen=True)
class Budget:
    """Steps of each training, training questions that are read, and the seconds that each part is expected to take."""

    steps: dict[str, int]
    examples: int
    seconds: dict[str, float]

    @property
    def total(self) -> float:
        """All expected seconds."""
        return sum(self.seconds.values())


def budget_for(
    minutes: float, batch_sizes: Mapping[str, int], questions: int, documents: int, pace: float = 1.0
) -> Budget:
    """Return the longest training that fits into ``minutes``; ``pace`` is the machine's time over the default run's.

    ``batch_sizes`` are those of each training, 0 if it is off. The steps of all trainings grow in proportion.
    EffirError where not even ``LEAST`` steps fit.
    """
    least = _budget(LEAST, batch_sizes, questions, documents, pace)
    if least.total > 60 * minutes:
        raise EffirError(
            f"{minutes:g} minutes are too short: {documents:,} documents and {LEAST} steps of fine-tuning take "
            f"about {least.total / 60:.0f} minutes here. Give --minutes {int(least.total / 60) + 1} or more"
        )
    budgets = (_budget(units, batch_sizes, questions, documents, pace) for units in count(LEAST))
    *_, longest = takewhile(lambda each: each.total <= 60 * minutes, budgets)
    return longest


def pace_of(records: Mapping[str, tuple[float, int]]) -> float | None:
    """Return how many times the default run's time this machine takes; None where no training was long enough.

    ``records`` map a training to its measured seconds and the pairs that it read, steps times batch size. The median of
    the trainings is taken: one that was killed and resumed has the time of its last part only.
    """
    expected = {name: pairs * PAIR_SECONDS[name] for name, (_, pairs) in records.items()}
    ratios = [records[name][0] / seconds for name, seconds in expected.items() if seconds >= TELLING]
    return median(ratios) if ratios else None


def _budget(units: int, batch_sizes: Mapping[str, int], questions: int, documents: int, pace: float) -> Budget:
    steps = {name: units * UNITS[name] if size else 0 for name, size in batch_sizes.items()}
    needed = max(steps[name] * batch_sizes[name] for name in ("finetune_full", "finetune"))
    examples = min(questions, needed)
    seconds = {
        "preparation and measurements": START_SECONDS + pace * FIXED_SECONDS,
        "teacher scores": pace * EXAMPLE_SECONDS * examples,
        **{name: pace * PAIR_SECONDS[name] * steps[name] * size for name, size in batch_sizes.items()},
        "encoding the documents": pace * DOCUMENT_SECONDS * documents,
        "the uncompressed model, for comparison": pace * 2 * DOCUMENT_SECONDS * documents,
    }
    return Budget(steps, examples, seconds)
