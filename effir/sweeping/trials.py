"""A trial as a DVC experiment in a folder of its own: run, or read where it has run already."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from effir.comparison import Scalar, Variant, same_text
from effir.errors import EffirError
from effir.experiments import experiment_named, read_experiment
from effir.sweeping.space import Value
from effir.tracking.runs import flatten

# DVC inside a process that ends with this one: a killed sweep leaves no experiment running behind its back.
CHILD = "import sys; from effir.lifeline import die_with_parent as d; d(); from dvc.cli import main; sys.exit(main())"
POLL_SECONDS = 0.5


class TrialError(EffirError):
    """The pipeline failed with a trial's settings."""


def run_trial(name: str, settings: Mapping[str, Value], log: Path, tell: Callable[[str], None]) -> Variant:
    """Run the pipeline as the DVC experiment ``name`` with ``settings`` of params.yaml, and return its figures.

    An experiment of that name that is there already is read instead. DVC's output goes to ``log``; ``tell`` hears the
    stage that runs. Stages that an earlier trial ran with the same inputs come out of DVC's run cache. TrialError
    where the pipeline fails, EffirError where the experiment of that name has other settings.
    """
    if experiment_named(name) is None:
        log.parent.mkdir(parents=True, exist_ok=True)
        options = [part for key, value in settings.items() for part in ("--set-param", assignment(key, value))]
        command = [sys.executable, "-c", CHILD, "exp", "run", "--temp", "--name", name, *options]
        with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as dvc:
            _follow(dvc, log, tell)
    found = experiment_named(name)
    if found is None:
        raise TrialError(f"trial {name} failed ({_complaint(log)}): {log} says more")
    trial = read_experiment(found)
    if other := [
        key for key, value in flat_settings(settings).items() if same_text(trial.params.get(key)) != same_text(value)
    ]:
        raise EffirError(
            f"the experiment {name} was made with another {', '.join(other)}: remove it by `dvc exp remove {name}`, "
            "or choose another name"
        )
    return trial


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


def _follow(dvc: subprocess.Popen[bytes], log: Path, tell: Callable[[str], None]) -> None:
    try:
        while dvc.poll() is None:
            stages = re.findall(r"Running stage '([^']+)'", log.read_text(encoding="utf-8", errors="replace"))
            tell(stages[-1] if stages else "starting")
            time.sleep(POLL_SECONDS)
    except BaseException:
        dvc.terminate()
        dvc.wait()
        raise


def _complaint(log: Path) -> str:
    """Find what a person must know of a failed run: the stage's own sentence, or else DVC's."""
    text = log.read_text(encoding="utf-8", errors="replace")
    said = re.findall(r"^(?:Error|ERROR): (.*)$", text, re.MULTILINE)
    return str(said[0]) if said else "DVC said nothing"
