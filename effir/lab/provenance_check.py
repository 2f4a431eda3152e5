"""Whether a run that is there was made as it would be made now: by which params, of those that decide what it finds."""

from collections.abc import Mapping

from effir.lab.overrides import flat_settings
from effir.lab.space import Value
from effir.params import Scalar, same_text

LOCAL = ("data.mirror", "data.collections", "tracking.", "register.")
"""Keys of params.yaml that do not decide what a run finds."""
NEUTRAL: Mapping[str, Scalar] = {"finetune_full.lora_rank": 16, "distill.lora_rank": 16, "training.lora_scaling": 2.0}
"""Keys that came after runs that are kept, and the value that does what was done before them."""
IDLE: Mapping[str, tuple[str, Scalar]] = {
    "finetune_full.": ("finetune_full.steps", 0),
    "analyze.": ("prune.depth", 0),
    "distill.": ("distill.steps", 0),
    "prune.method": ("prune.width", 1.0),
    "prune.steps": ("prune.width", 1.0),
    "finetune.learning_rate": ("finetune.steps", 0),
    "finetune.lora_rank": ("finetune.steps", 0),
}
"""Keys that decide nothing where another says that there is nothing to do."""


def made_otherwise(made: Mapping[str, Scalar], settings: Mapping[str, Value], params: Mapping[str, Scalar]) -> str:
    """Say by which other params a run was ``made`` than it would be now; nothing where there are none.

    Now it would be made by ``params`` (params.yaml's, flat) with ``settings`` over them.

    >>> made_otherwise({"prune.depth": 5, "prune.width": 1.0}, {"prune.depth": 6}, {"prune.width": 1.0})
    'prune.depth=5, now 6'
    """
    own = flat_settings(settings)
    now, made = {**unset(params, settings), **own}, {**NEUTRAL, **made}
    keys = [*now, *(key for key in made if key not in now and any(_same_place(key, one) for one in settings))]
    compared = [key for key in keys if not (key.startswith(LOCAL) or _idle(key, now))]
    other = [key for key in compared if same_text(made.get(key)) != same_text(now.get(key))]
    return ", ".join(f"{key}={made.get(key)}, now {now.get(key)}" for key in other)


def unset(params: Mapping[str, Scalar], settings: Mapping[str, Value]) -> dict[str, Scalar]:
    """Return the params that no setting takes the place of."""
    own = flat_settings(settings)
    return {key: value for key, value in params.items() if not any(_same_place(key, one) for one in own)}


def _idle(key: str, params: Mapping[str, Scalar]) -> bool:
    """Tell whether a key is of a stage that does nothing, and does not say so itself."""
    decides, nothing = next((idle for prefix, idle in IDLE.items() if key.startswith(prefix)), (key, None))
    return decides != key and same_text(params.get(decides)) == same_text(nothing)


def _same_place(a: str, b: str) -> bool:
    """Tell whether keys are one, or one a mapping that the other is in: `data.train` and `data.train.nq`."""
    return a == b or a.startswith(f"{b}.") or b.startswith(f"{a}.")
