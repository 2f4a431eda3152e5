"""Overlays on ``params.yaml`` that keep its comments."""

from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from itertools import takewhile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from effir.errors import EffirError
from effir.files import writing
from effir.lab.settings import assignment
from effir.params import PARAMS, check_params

Overlay = Mapping[str, Any]
Change = tuple[str, Any, Any]
"""A key as ``prune.width``, its old value and its new one."""


def profile_purposes(folder: Path) -> dict[str, str]:
    """Name to purpose of each profile in ``folder``: the comment at its head, in one line."""
    return {path.stem: _purpose(path) for path in sorted(folder.glob("*.yaml"))}


def use_profiles(folder: Path, names: Sequence[str], params: Path = PARAMS, dry_run: bool = False) -> list[Change]:
    """Write ``<folder>/<name>.yaml`` of each name, in order, over ``params``, and return the changes.

    EffirError for an unknown profile, and for one whose result would not be valid: ``params`` is not changed then.
    """
    return write_overlays(_profiles(folder, names, params), params, dry_run)


def profile_options(folder: Path, names: Sequence[str], params: Path = PARAMS) -> list[str]:
    """Write each key of the profiles as a setting for ``dvc exp run --set-param``; ``params`` is not changed."""
    overlays = _profiles(folder, names, params)
    write_overlays(overlays, params, dry_run=True)  # refuses what would not be valid
    sections = [section for overlay in overlays for section in overlay.items()]
    settings = {f"{name}.{key}": value for name, keys in sections for key, value in keys.items()}
    return [assignment(key, value) for key, value in settings.items()]


def write_overlays(overlays: Sequence[Overlay], params: Path = PARAMS, dry_run: bool = False) -> list[Change]:
    """Write nested settings, in order, over ``params``, whose comments stay, and return the changes.

    EffirError where the result would not be valid: ``params`` is not changed then. A ``dry_run`` writes nothing.
    """
    values, before, text = _sections(params), _plain(params.read_text(encoding="utf-8")), StringIO()
    for overlay in overlays:
        _overlay(values, overlay)
    _editable().dump(values, text)
    after = _plain(text.getvalue())
    check_params(after)
    if not dry_run:
        with writing(params) as draft:
            draft.write_text(text.getvalue(), encoding="utf-8")
    return list(_differences(before, after))


def _profiles(folder: Path, names: Sequence[str], params: Path) -> list[Overlay]:
    if not params.exists():
        raise EffirError(f"{params} is missing: run this in the project's root")
    known = list(profile_purposes(folder))
    for name in names:
        if name not in known:
            raise EffirError(f"there is no profile {name!r}: choose one of {', '.join(known)}")
    return [_sections(folder / f"{name}.yaml") for name in names]


def _sections(path: Path) -> Any:
    """Load a file of settings with its comments; EffirError where it is not one."""
    try:
        found = _editable().load(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise EffirError(f"{path} is not YAML ({' '.join(str(error).split())}): correct it") from None
    if not isinstance(found, Mapping):
        raise EffirError(f"{path} holds no settings: write sections and their keys, or run `git checkout {path}`")
    return found


def _overlay(values: Any, overlay: Overlay) -> None:
    for key, new in overlay.items():
        if isinstance(new, Mapping) and isinstance(values.get(key), Mapping) and new:
            _overlay(values[key], new)
        elif values.get(key) != new:
            values[key] = new


def _differences(before: Overlay, after: Overlay, prefix: str = "") -> Iterator[Change]:
    for key, new in after.items():
        old = before.get(key)
        if isinstance(new, Mapping) and isinstance(old, Mapping) and new:
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}", old, new


def _purpose(path: Path) -> str:
    head = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    return " ".join(line.removeprefix("#").strip() for line in head)


def _plain(text: str) -> Any:
    return YAML(typ="safe").load(text)


def _editable() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # a long source stays on its line
    return yaml
