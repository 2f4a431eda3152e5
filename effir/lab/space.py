"""Where a sweep looks: which keys of ``params.yaml`` vary, and between what."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from effir.errors import EffirError

Value = int | float | str
FORM = "write prune.depth=0:20, prune.width=0.5:1.0:0.04 or analyze.sublayer=mlp,block"


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high`` in steps."""

    low: float
    high: float
    step: float

    @property
    def is_whole(self) -> bool:
        """Whether the values are whole numbers."""
        return self.low % 1 == self.high % 1 == self.step % 1 == 0


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[str, ...]


Space = Mapping[str, Range | Choice]


def default_space(layers: int) -> dict[str, Range | Choice]:
    """Vary depth up to two thirds of the layers and width from a half, unless told otherwise."""
    return {"prune.depth": Range(0, 2 * layers // 3, 1), "prune.width": Range(0.52, 1.0, 0.04)}


def read_space(texts: Sequence[str]) -> dict[str, Range | Choice]:
    """Read ``KEY=LOW:HIGH``, ``KEY=LOW:HIGH:STEP`` and ``KEY=a,b,c``; EffirError says what is wrong with one.

    Without a step it is 1 between whole numbers, otherwise 0.02, or a twentieth of a range shorter than 0.4.

    >>> read_space(["prune.depth=0:20", "prune.method=taylor,slimming"])
    {'prune.depth': Range(low=0.0, high=20.0, step=1.0), 'prune.method': Choice(values=('taylor', 'slimming'))}
    """
    return dict(map(_read, texts))


def _read(text: str) -> tuple[str, Range | Choice]:
    key, _, values = text.partition("=")
    if not re.fullmatch(r"(prune|restore)\.\w+", key) or not values:
        raise EffirError(f"--vary {text}: a sweep varies keys of prune and restore; {FORM}")
    if ":" not in values:
        return key, Choice(tuple(value.strip() for value in values.split(",")))
    try:
        low, high, *step = map(float, values.split(":"))
    except ValueError:
        raise EffirError(f"--vary {text}: {values} is no range of numbers; {FORM}") from None
    spaced = step[0] if step else _step(low, high)
    if len(step) > 1 or low > high or spaced <= 0 or spaced > high - low > 0:
        raise EffirError(f"--vary {text}: low comes before high, and the step is above 0 and fits between them; {FORM}")
    return key, Range(low, high, spaced)


def _step(low: float, high: float) -> float:
    """Choose a step: one between whole numbers, otherwise 0.02, or what makes 20 steps of a short range."""
    if low % 1 == high % 1 == 0:
        return 1.0
    return min(0.02, (high - low) / 20) or 0.02
