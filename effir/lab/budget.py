"""Minutes to steps: how much training fits into a given time, by the measured seconds of the default run."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, takewhile
from statistics import median

from effir.errors import EffirError

# The default run of 2026-11-30 (docs/speed.md): SmolLM2-135M, 2 cores of a Xeon with AMX, bfloat16. Its seconds:
# finetune_full 224, finetune 243, self_teacher_scores 56, index 63, teacher_scores 28.
# distill is off there: 150 for 120 steps of 8 is an estimate.
PAIR_SECONDS = {"finetune_full": 224 / (90 * 16), "distill": 150 / (120 * 8), "finetune": 243 / (60 * 32)}
"""Seconds that each training takes for a training pair in a batch."""
UNITS = {"finetune_full": 3, "distill": 4, "finetune": 2}
"""Steps of each training in a unit: 30 units are the default run's 90 and 60, or 120 of distillation where it is on."""
EXAMPLE_SECONDS = (56 + 28) / 2000
"""What the two teachers take for a training question."""
DOCUMENT_SECONDS = 63 / 2656
"""What the retriever takes to encode a document. The uncompressed model takes twice as long."""
FIXED_SECONDS = 60 + 68 + 58 + 70 + 15
"""download, analyze, score_channels and prune_width, measure_cost, and the short stages."""
START_SECONDS = 126
"""All programs start and DVC checks its files, whatever the model."""
LEAST = 5
"""Units, at least: a contrastive training of a language model does not move in its first 10 steps."""
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
    EffirError where not even ``LEAST`` units fit.
    """
    least = _budget(LEAST, batch_sizes, questions, documents, pace)
    if least.total > 60 * minutes:
        steps = LEAST * UNITS["finetune_full" if batch_sizes["finetune_full"] else "finetune"]
        raise EffirError(
            f"{minutes:g} minutes are too short: {documents:,} documents and {steps} steps of fine-tuning take "
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
