"""Say where a pipeline stands: which stage of how many, and how many seconds it and the rest are expected to take."""

from collections.abc import Sequence
from pathlib import Path

from effir.files import project_root, read_json, write_json
from effir.lab.pipeline import PIPELINE, RUNS, stages_in_order

COMMITTED = Path("reports/stage_seconds.json")
"""Stage to seconds of a past run, for a clone in which the pipeline has not run yet."""
KEPT = Path(".effir/stage_seconds.json")
"""The same on this machine: DVC removes ``runs/<stage>.json`` before it runs the stage."""


def remember(stage: str, seconds: float) -> None:
    """Keep how long a stage took, for :func:`expected_seconds` of its next run."""
    path = project_root() / KEPT
    write_json(path, {**_read(path), stage: seconds})


def expected_seconds(stage: str, runs: Path = RUNS) -> float | None:
    """Return the seconds of a stage's last run; None if unknown.

    They are read from ``runs/<stage>.json``, else from what :func:`remember` kept, else from the committed file. A
    stage that never ran on one set (``index@mine``) is expected to take as long as on another set.
    """
    record = runs / f"{stage}.json"
    if record.exists() and "seconds" in (found := read_json(record)):
        return float(found["seconds"])
    known = {**_read(COMMITTED), **_read(project_root() / KEPT)}
    kind, _, item = stage.partition("@")
    alike = [seconds for name, seconds in known.items() if item and name.partition("@")[0] == kind]
    return known.get(stage, alike[0] if alike else None)


def position(stage: str, sets: Sequence[str], pipeline: Path = PIPELINE, runs: Path = RUNS) -> tuple[int, int, float]:
    """Return a stage's number (from 1), the number of stages, and the seconds expected for it and all that follow.

    A stage of unknown duration counts as 0 seconds. A stage that keeps no record has the number 0.
    """
    stages = stages_in_order(sets, pipeline)
    number = stages.index(stage) + 1 if stage in stages else 0
    left = stages[number - 1 :] if number else [stage]
    return number, len(stages), sum(expected_seconds(each, runs) or 0.0 for each in left)


def progress_line(stage: str, number: int, total: int, own: float | None, left: float) -> str:
    """Write one line of progress; ``own`` and ``left`` are seconds, and ``left`` includes ``own``.

    >>> progress_line("analyze", 7, 18, 41.2, 760.0)
    '[7/18] analyze: about 40 s; then about 12 min for what follows'
    >>> progress_line("register", 18, 18, 4.0, 4.0), progress_line("index@mine", 9, 18, None, 0.0)
    ('[18/18] register: about 4 s', '[9/18] index@mine')
    """
    rest = left - (own or 0.0)
    times = [f"about {shown(own)}"] if own is not None else []
    times += [f"{'then ' if times else ''}about {shown(rest)} for what follows"] if rest >= 1 else []
    return f"[{number}/{total}] {stage}{': ' if times else ''}{'; '.join(times)}"


def progress_of(stage: str, sets: Sequence[str]) -> str:
    """Write the line of progress of a stage that starts now; empty outside a project with a dvc.yaml."""
    number, total, left = position(stage, sets)
    return progress_line(stage, number, total, expected_seconds(stage), left) if number else ""


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
