"""Say where a pipeline stands: which stage of how many, and how many seconds it and the rest are expected to take."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effir.files import project_root, read_json, text_digest, write_json
from effir.lab.pipeline import PIPELINE, settings_of, stages_in_order

COMMITTED = Path("reports/stage_seconds.json")
"""Stage and settings to seconds of a past run, for a clone in which the pipeline has not run yet."""
KEPT = Path(".effir/stage_seconds.json")
"""The same on this machine, of the main checkout and its experiments."""


def remember(stage: str, params: Mapping[str, Any], seconds: float) -> None:
    """Keep how long a stage took with these params, for :func:`expected_seconds` of its next run."""
    path = project_root() / KEPT
    write_json(path, {**_read(path), _key(stage, params): seconds})


def expected_seconds(stage: str, params: Mapping[str, Any], pipeline: Path = PIPELINE) -> float | None:
    """Return the seconds of a stage's last run with the same settings, on any set; None if there was none.

    They are read from what :func:`remember` kept, else from the committed file.
    """
    known = {**_read(COMMITTED), **_read(project_root() / KEPT)}
    return known.get(_key(stage, params, pipeline))


def progress_of(stage: str, params: Mapping[str, Any], pipeline: Path = PIPELINE) -> str:
    """Write the line of progress of a stage that starts now; empty outside a project, and for stages without a record.

    ``params`` are those of the run: section to key to value.
    """
    stages = stages_in_order(params["data"]["eval"], pipeline)
    if stage not in stages:
        return ""
    number = stages.index(stage) + 1
    own, *rest = (expected_seconds(each, params, pipeline) for each in stages[number - 1 :])
    return progress_line(stage, number, len(stages), own, rest)


def progress_line(stage: str, number: int, total: int, own: float | None, rest: list[float | None]) -> str:
    """Write one line of progress; ``own`` and ``rest`` are seconds of this stage and of those after it.

    >>> progress_line("analyze", 7, 18, 41.2, [700.0, 20.0])
    '[7/18] analyze: about 40 s; then about 12 min for what follows'
    >>> progress_line("finetune", 12, 18, None, [None, 20.0])
    '[12/18] finetune: at least 20 s for what follows'
    >>> progress_line("register", 18, 18, 4.0, []), progress_line("index@mine", 9, 18, None, [None])
    ('[18/18] register: about 4 s', '[9/18] index@mine')
    """
    times = [f"about {shown(own)}"] if own is not None else []
    known = sum(seconds or 0.0 for seconds in rest)
    if known >= 1:
        bound = "at least" if None in rest else "about"
        times.append(f"{'then ' if times else ''}{bound} {shown(known)} for what follows")
    return f"[{number}/{total}] {stage}{': ' if times else ''}{'; '.join(times)}"


def shown(seconds: float) -> str:
    """Round a duration for a person.

    >>> shown(3.6), shown(41.2), shown(119), shown(760), shown(5400)
    ('4 s', '40 s', '2 min', '13 min', '1 h 30 min')
    """
    if seconds < 10:
        return f"{max(1, round(seconds))} s"
    if seconds < 95:
        return f"{10 * round(seconds / 10)} s"
    minutes = int(seconds / 60 + 0.5)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _read(path: Path) -> dict[str, float]:
    return dict(read_json(path)) if path.exists() else {}


def _key(stage: str, params: Mapping[str, Any], pipeline: Path = PIPELINE) -> str:
    """Name a stage and its settings, without its set: ``finetune 1f3a5b7c``."""
    kind = stage.partition("@")[0]
    settings = json.dumps(settings_of(kind, params, pipeline), sort_keys=True, default=str)
    return f"{kind} {text_digest(settings)[:8]}"
