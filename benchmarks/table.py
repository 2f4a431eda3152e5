"""What every table of the benchmarks shares: ratios, the machine, and a result as JSON and Markdown."""

import datetime
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from effir.evaluation import speed as cost
from effir.files import write_json, writing

RESULTS = Path("benchmarks/results")
PACKAGES = ("torch", "transformers", "sentence-transformers", "openvino", "faiss-cpu", "mlflow", "dvc")


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """Compare two rows of timings round by round, as plain figures: how many times as fast, median, least and most."""
    return cost.ratio(slow, fast)


def machine() -> dict[str, Any]:
    """Return what a figure depends on beside the code: processor, threads, versions, commit and date."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "commit": subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        "date": datetime.date.today().isoformat(),
    }


def save(
    name: str,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    columns: Mapping[str, Callable[[Mapping[str, Any]], str]],
    notes: Sequence[str],
    settings: Mapping[str, Any],
    command: str = "",
) -> None:
    """Write ``results/<name>.json``, all of it, and ``<name>.md``, its ``columns``: a heading and what a row shows.

    ``command`` is what follows ``python -m benchmarks.``; left out, it is the name.
    """
    found = machine()
    write_json(RESULTS / f"{name}.json", {"title": title, "settings": settings, "machine": found, "rows": rows})
    table = [list(columns), ["---"] * len(columns), *([show(row) for show in columns.values()] for row in rows)]
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    where = f"{found['cores']} cores of {found['processor']}, commit {found['commit']}, {found['date']}"
    made = f"- `python -m benchmarks.{command or name}`; {where}."
    text = "\n".join([f"# {title}", "", *lines, "", *(f"- {note}" for note in notes), made, ""])
    with writing(RESULTS / f"{name}.md") as draft:
        draft.write_text(text, encoding="utf-8")


def times(spread: Mapping[str, float]) -> str:
    """Show a ratio with its spread.

    >>> times({"median": 2.0, "low": 1.6, "high": 3.0})
    '2.00 (1.60 to 3.00)'
    """
    return f"{spread['median']:.2f} ({spread['low']:.2f} to {spread['high']:.2f})"


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []
