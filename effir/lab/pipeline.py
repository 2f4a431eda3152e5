"""What dvc.yaml says of the pipeline: its stages in order, which one makes a file, and the settings that each reads."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import click
import yaml

from effir.errors import EffirError, MissingError, is_disk_full

PIPELINE = Path("dvc.yaml")
RUNS = Path("runs")
DISK_FULL = (
    "a disk is full: free some space (`df -h` shows where), then repeat the command. It continues where it stopped"
)


class Refusal(click.ClickException):
    """One sentence, no traceback, exit status 2."""

    exit_code = 2


@contextmanager
def refusing() -> Iterator[None]:
    """Turn a mistake that its reader can correct into a refusal; a missing artifact names the stage that makes it."""
    try:
        yield
    except MissingError as missing:
        stage = stage_that_makes(missing.path)
        raise Refusal(f"{missing.path} is missing: run `dvc repro {stage}`" if stage else str(missing)) from None
    except EffirError as error:
        raise Refusal(DISK_FULL if is_disk_full(error) else str(error)) from None
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise Refusal(DISK_FULL) from None


def stage_that_makes(path: Path, pipeline: Path = PIPELINE) -> str | None:
    """Name the stage whose output ``path`` is, or lies in; None outside the project, or where no stage makes it."""
    wanted = Path(os.path.relpath(path))
    made = [(name, out) for name, body in _stages(pipeline).items() for out in outputs(body)]
    for name, out in sorted(made, key=lambda each: "${item}" in each[1]):  # metrics/cost.json is of no set
        found = re.match(re.escape(out).replace(re.escape("${item}"), r"(?P<item>[^/]+?)") + "(/|$)", str(wanted))
        if found:
            return f"{name}@{found['item']}" if "item" in found.groupdict() else name
    return None


def stages_in_order(sets: Sequence[str], pipeline: Path = PIPELINE) -> list[str]:
    """List the stages that keep a record in ``runs``, as dvc.yaml orders them: ``download``, ``index@apidocs``."""
    found = []
    for name, body in _stages(pipeline).items():
        if any(out.startswith(f"{RUNS}/") for out in outputs(body)):
            found += [f"{name}@{item}" for item in sets] if "${item}" in " ".join(outputs(body)) else [name]
    return found


def settings_of(stage: str, params: Mapping[str, Any], pipeline: Path = PIPELINE) -> dict[str, Any]:
    """Return the keys of ``params`` that a stage reads, by dvc.yaml: whole sections and single keys."""
    found = {}
    for name in _stages(pipeline).get(stage, {}).get("params", []):
        section, _, key = name.partition(".")
        found[name] = params[section][key] if key else params[section]
    return found


def record_of(stage: str) -> Path:
    """Name the file that holds the record of a stage's last run: ``runs/index@apidocs.json``."""
    return RUNS / f"{stage}.json"


def outputs(body: dict[str, Any]) -> list[str]:
    """List the paths under ``outs``, ``metrics`` and ``plots`` of a stage's body, without their flags."""
    listed = [entry for kind in ("outs", "metrics", "plots") for entry in body.get(kind, [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in listed]


def _stages(pipeline: Path) -> dict[str, dict[str, Any]]:
    """Stage to its body; of a ``foreach`` what it does for each item."""
    if not pipeline.is_file():
        return {}
    return _parsed(pipeline.read_text(encoding="utf-8"))


@cache
def _parsed(text: str) -> dict[str, dict[str, Any]]:
    return {name: body.get("do", body) for name, body in yaml.safe_load(text)["stages"].items()}
