"""Overlays on ``params.yaml`` that keep its comments."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from effir.errors import EffirError
from effir.files import writing
from effir.params import PARAMS, check_params

Change = tuple[str, Any, Any]


def use_profile(folder: Path, name: str, params: Path = PARAMS) -> list[Change]:
    """Write ``<folder>/<name>.yaml`` over ``params``; return the changes as (key, old, new).

    EffirError for an unknown profile, and for one whose result would not be valid: ``params`` stays as it was.
    """
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise EffirError(f"there is no profile {name!r}: choose one of {', '.join(known)}")
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 120
    values = yaml.load(params.read_text(encoding="utf-8"))
    overlay = YAML(typ="safe").load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    changes = list(_overlay(values, overlay))
    check_params(YAML(typ="safe").load(_dumped(yaml, values)))
    with writing(params) as draft:
        draft.write_text(_dumped(yaml, values), encoding="utf-8")
    return changes


def _overlay(values: Any, overlay: Mapping[str, Any], prefix: str = "") -> Iterator[Change]:
    for key, new in overlay.items():
        if isinstance(new, Mapping) and isinstance(values.get(key), Mapping) and new:
            yield from _overlay(values[key], new, f"{prefix}{key}.")
        elif values.get(key) != new:
            yield f"{prefix}{key}", values.get(key), new
            values[key] = new


def _dumped(yaml: YAML, values: Any) -> str:
    from io import StringIO

    text = StringIO()
    yaml.dump(values, text)
    return text.getvalue()
