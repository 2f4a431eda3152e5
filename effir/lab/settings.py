"""Settings over params.yaml: how DVC reads them, and whether a run was made with the settings of today."""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from copy import deepcopy
from typing import Any

import yaml

from effir.params import Scalar, flatten, same_text

Value = int | float | str
_BARE = re.compile(r"[\w.:/@+-]+")

LOCAL = ("data.mirror", "data.collections", "evaluate.baselines", "tracking.", "register.")
"""Prefixes of keys that do not change what a run's own model scores."""
NEUTRAL: Mapping[str, Scalar] = {
    "finetune_full.lora_rank": 16,
    "distill.lora_rank": 16,
    "training.lora_scaling": 2.0,
    "training.similarity_weight": 0.0,
    "retriever.vocabulary": "all",
}
"""Keys that older runs do not have, and the value that gives what the pipeline did before them."""
_CHANNELS = "method keep_gates multiple_of steps batch_size learning_rate l0_weight sharpness"
IDLE: Mapping[str, tuple[str, Scalar]] = {
    "finetune_full.": ("finetune_full.steps", 0),
    "analyze.": ("prune.depth", 0),
    **{f"prune.{key}": ("prune.width", 1.0) for key in _CHANNELS.split()},
    "distill.": ("distill.steps", 0),
    "finetune.": ("finetune.steps", 0),
}
"""Prefix of keys to the setting with which they have no effect."""


def flat_settings(settings: Mapping[str, Value]) -> dict[str, Scalar]:
    """Read settings as DVC reads them from its command line, with the keys of flat params."""
    return flatten({key: as_written(value) for key, value in settings.items()})


def set_over(params: Mapping[str, Any], settings: Mapping[str, Value]) -> dict[str, Any]:
    """Return the content of params.yaml with settings over it, as DVC would write it.

    >>> set_over({"prune": {"depth": 3, "width": 1.0}}, {"prune.depth": "4"})
    {'prune': {'depth': 4, 'width': 1.0}}
    """
    values = deepcopy(dict(params))
    for key, value in settings.items():
        *sections, name = key.split(".")
        place = values
        for section in sections:
            place[section] = place[section] if isinstance(place.get(section), dict) else {}
            place = place[section]
        place[name] = as_written(value)
    return values


def assignment(key: str, value: object) -> str:
    """Write a setting for DVC's command line. A mapping needs ``++``: Hydra refuses new keys in an existing mapping.

    >>> print(assignment("prune.depth", 3), assignment("data.collections", {"docs": "/data/docs"}))
    prune.depth=3 ++data.collections={docs: /data/docs}
    """
    text = override(value)
    return f"{'++' if text.startswith('{') else ''}{key}={text}"


def override(value: object) -> str:
    """Write a value so that DVC's command line (Hydra's grammar: no quotes around keys) and YAML read the same.

    A text that starts with a bracket or a quote and is valid YAML is kept: a user wrote it for DVC. Hydra
    knows no escapes but of quotation marks, so a line break is written as one.

    >>> override({"nq": 1, "scifact": 0.5}), override(["a", True]), override("[a, b]"), override(None)
    ('{nq: 1, scifact: 0.5}', '[a, True]', '[a, b]', 'null')
    >>> print(override("wheel:package==1.0/model"), override("it's, so"), override(""), override("[INST] x"))
    "wheel:package==1.0/model" "it's, so" "" "[INST] x"
    """
    if value is None:
        return "null"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {override(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(override, value))}]"
    text = str(value)
    if _BARE.fullmatch(text):
        return text
    if (written := _for_dvc(text)) is None:
        return _quoted(text)
    if not re.search(r"[\\\n]", text):
        return text
    return _quoted(written) if isinstance(written, str) else override(written)  # Hydra and YAML read it differently


def as_written(value: object) -> Any:
    """Return the value that DVC writes into params.yaml for ``override(value)``.

    >>> as_written("1e-5"), as_written("0.5"), as_written("it's, so"), as_written({"nq": "1"})
    ('1e-5', 0.5, "it's, so", {'nq': 1})
    """
    if isinstance(value, dict):
        return {key: as_written(each) for key, each in value.items()}
    if isinstance(value, list):
        return [as_written(each) for each in value]
    text = override(value)
    if value is None or _BARE.fullmatch(text):
        return yaml.safe_load(text)
    written = _for_dvc(str(value))
    return str(value) if written is None else written


def _for_dvc(text: str) -> Any:
    """Return the value of a text that a user wrote for DVC, in brackets or quotes; None for any other text."""
    with suppress(yaml.YAMLError):
        return yaml.safe_load(text) if text.startswith(("[", "{", "'", '"')) else None
    return None


def _quoted(text: str) -> str:
    """Quote a text in Hydra's grammar: a quotation mark is escaped, and each backslash before one or before the end."""
    return '"' + re.sub(r'(\\*)("|\Z)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), text) + '"'


def changed_params(made: Mapping[str, Scalar], settings: Mapping[str, Value], params: Mapping[str, Scalar]) -> str:
    """List the params of a run (``made``) that have another value today; empty if there is none.

    Today the run would be made with ``params`` (params.yaml, flat) and ``settings`` over them.
    """
    now, made = {**without(params, settings), **flat_settings(settings)}, {**NEUTRAL, **made}
    keys = [*now, *(key for key in made if key not in now and any(_same_place(key, one) for one in settings))]
    changed = [key for key in keys if not has_no_effect(key, [now]) and not _equal(key, made, now)]
    return ", ".join(f"{key}={made.get(key)}, now {now.get(key)}" for key in changed)


def differing_params(params: Iterable[Mapping[str, Scalar]]) -> dict[str, list[str | None]]:
    """Return the keys that distinguish several runs, with the value of each run; None where a run has no such key.

    ``5e-4`` and ``0.0005`` are equal, so are a missing key and its neutral value. Keys without an effect are left out.
    A run without any params is not compared.

    >>> differing_params([{"distill.steps": "5e1", "prune.width": 0.7}, {"distill.steps": 50, "prune.width": 0.6}])
    {'prune.width': ['0.7', '0.6']}
    """
    runs = list(params)
    known = [{**NEUTRAL, **each} for each in runs if each]
    keys = [key for key in dict.fromkeys(key for each in known for key in each) if not has_no_effect(key, known)]
    differing = [key for key in keys if not all(_equal(key, each, known[0]) for each in known)]
    return {key: [str(each[key]) if key in each else None for each in runs] for key in differing}


def without(params: Mapping[str, Scalar], settings: Mapping[str, Value]) -> dict[str, Scalar]:
    """Return the params that no setting replaces."""
    own = flat_settings(settings)
    return {key: value for key, value in params.items() if not any(_same_place(key, one) for one in own)}


def has_no_effect(key: str, runs: Iterable[Mapping[str, Scalar]]) -> bool:
    """Tell whether a key changes the metrics of none of the runs with these params."""
    switch, off = next((idle for prefix, idle in IDLE.items() if key.startswith(prefix)), (key, None))
    idle = switch != key and all(same_text(params.get(switch)) == same_text(off) for params in runs)
    return idle or key.startswith(LOCAL)


def _equal(key: str, one: Mapping[str, Scalar], other: Mapping[str, Scalar]) -> bool:
    return same_text(one.get(key)) == same_text(other.get(key))


def _same_place(a: str, b: str) -> bool:
    """Tell whether two keys are equal, or one is inside the mapping of the other: `data.train`, `data.train.nq`."""
    return a == b or a.startswith(f"{b}.") or b.startswith(f"{a}.")
