"""Settings as DVC's command line, its YAML and a variant's params write them."""

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import yaml

from effir.lab.space import Value
from effir.params import Scalar, flatten


def flat_settings(settings: Mapping[str, Value]) -> dict[str, Scalar]:
    """Read settings as DVC reads them from its command line, and name them as a variant's params."""
    return flatten({key: yaml.safe_load(override(value)) for key, value in settings.items()})


def set_over(params: Mapping[str, Any], settings: Mapping[str, Value]) -> dict[str, Any]:
    """Return what params.yaml holds with settings over it, as DVC would write them.

    >>> set_over({"prune": {"depth": 3, "width": 1.0}}, {"prune.depth": "4"})
    {'prune': {'depth': 4, 'width': 1.0}}
    """
    values = deepcopy(dict(params))
    for key, value in settings.items():
        *sections, name = key.split(".")
        place = values
        for section in sections:
            if not isinstance(place.get(section), dict):
                place[section] = {}
            place = place[section]
        place[name] = yaml.safe_load(override(value))
    return values


def assignment(key: str, value: object) -> str:
    """Write a setting for DVC's command line; a mapping is forced, for Hydra refuses new keys in one that is there.

    >>> print(assignment("prune.depth", 3), assignment("data.collections", {"docs": "/data/docs"}))
    prune.depth=3 ++data.collections={docs: /data/docs}
    """
    text = override(value)
    return f"{'++' if text.startswith('{') else ''}{key}={text}"


def override(value: object) -> str:
    """Write a value as both DVC's command line (Hydra's grammar, whose keys have no quotes) and YAML read it.

    A text that begins with a bracket or a quote is one that a user wrote for DVC, and stays, if it is one.

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
    if re.fullmatch(r"[\w.:/@+-]+", text) or (text[:1] in {"[", "{", "'", '"'} and _is_yaml(text)):
        return text
    return json.dumps(text, ensure_ascii=False)


def _is_yaml(text: str) -> bool:
    try:
        yaml.safe_load(text)
    except yaml.YAMLError:
        return False
    return True
