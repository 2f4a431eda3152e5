"""Overlays on ``params.yaml`` that keep its comments."""

from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from effir.errors import EffirError
from effir.files import writing
from effir.params import PARAMS, check_params

Change = tuple[str, Any, Any]


def profile_purposes(folder: Path) -> dict[str, str]:
    """Name to purpose of each profile in ``folder``: the comment at its head, in one line."""
    return {path.stem: _purpose(path) for path in sorted(folder.glob("*.yaml"))}


def profile_changes(folder: Path, names: Sequence[str], params: Path = PARAMS) -> list[Change]:
    """Tell what ``use_profiles`` would change in ``params``, as (key, old, new); nothing is written."""
    return _overlaid(folder, names, params)[1]


def use_profiles(folder: Path, names: Sequence[str], params: Path = PARAMS) -> list[Change]:
    """Write ``<folder>/<name>.yaml`` of each name, in order, over ``params``; return the changes as (key, old, new).

    EffirError for an unknown profile, and for one whose result would not be valid: ``params`` stays as it was.
    """
    text, changes = _overlaid(folder, names, params)
    with writing(params) as draft:
        draft.write_text(text, encoding="utf-8")
    return changes


def _overlaid(folder: Path, names: Sequence[str], params: Path) -> tuple[str, list[Change]]:
    if not params.exists():
        raise EffirError(f"{params} is missing: run this in the project's root")
    known = list(profile_purposes(folder))
    for name in names:
        if name not in known:
            raise EffirError(f"there is no profile {name!r}: choose one of {', '.join(known)}")
    values, before = _sections(params), _plain(params)
    for name in names:
        _overlay(values, _sections(folder / f"{name}.yaml"))
    text = StringIO()
    _editable().dump(values, text)
    after = YAML(typ="safe").load(text.getvalue())
    check_params(after)
    return text.getvalue(), list(_differences(before, after))


def _sections(path: Path) -> Any:
    """Load a file of settings, comments and all; EffirError where it is none."""
    try:
        found = _editable().load(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise EffirError(f"{path} is not YAML ({' '.join(str(error).split())}): mend it") from None
    if not isinstance(found, Mapping):
        raise EffirError(
            f"{path} holds no settings: write sections and their keys, or restore it by `git checkout {path}`"
        )
    return found


def _overlay(values: Any, overlay: Mapping[str, Any]) -> None:
    for key, new in overlay.items():
        if isinstance(new, Mapping) and isinstance(values.get(key), Mapping) and new:
            _overlay(values[key], new)
        elif values.get(key) != new:
            values[key] = new


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> Iterator[Change]:
    for key, new in after.items():
        old = before.get(key)
        if isinstance(new, Mapping) and isinstance(old, Mapping) and new:
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}", old, new


def _purpose(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    head = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.removeprefix("#").strip() for line in lines[:head])


def _plain(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def _editable() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # a long source stays on its line
    return yaml
