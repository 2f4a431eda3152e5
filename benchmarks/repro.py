"""Time `make repro` stage by stage: revisions of this repository, each in a fresh clone."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.table import RESULTS, save
from effir.files import read_json, write_json

STAGE = re.compile(r"Running stage '(.+)':")
QUALITY = "metrics/apidocs.json"


def reproduced(revision: str, folder: Path) -> dict[str, Any]:
    """Reproduce a revision in a fresh clone with an empty cache, in this interpreter's environment."""
    clone = folder / "clone"
    subprocess.run(["git", "clone", "--quiet", ".", str(clone)], check=True)
    subprocess.run(["git", "-C", str(clone), "checkout", "--quiet", revision], check=True)
    if (shared := Path("../shared")).exists():  # real data beside the project
        (folder / "shared").symlink_to(shared.resolve())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    started = time.monotonic()
    with subprocess.Popen(
        ["dvc", "repro"],
        cwd=clone,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"},
    ) as process:
        assert process.stdout is not None
        seconds = by_stage((time.monotonic() - started, line) for line in process.stdout)
    if process.returncode:
        raise click.ClickException(f"dvc repro of {revision} failed")
    return {
        "revision": revision,
        "seconds": seconds,
        "ndcg_at_10": read_json(clone / QUALITY)["ndcg_at_10"],
    }


def by_stage(lines: Iterable[tuple[float, str]]) -> dict[str, float]:
    """Split the seconds of the lines of `dvc repro` into stages; ``dvc`` is the time before the first.

    >>> by_stage([(0.5, "..."), (2.0, "Running stage 'download':"), (5.0, "> ..."), (6.0, "Use `dvc push`")])
    {'dvc': 2.0, 'download': 4.0}
    """
    found, last, name = {"dvc": 0.0}, 0.0, "dvc"
    for now, line in lines:
        sys.stderr.write(line)
        found[name] += now - last
        last = now
        if started := STAGE.search(line):
            name = started[1]
            found.setdefault(name, 0.0)
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each stage, with the seconds of each revision."""
    names = list(dict.fromkeys(name for row in rows for name in row["seconds"]))
    for name in names:
        yield {"stage": name, **{row["revision"]: row["seconds"].get(name, 0.0) for row in rows}}
    yield {"stage": "**all**", **{row["revision"]: sum(row["seconds"].values()) for row in rows}}


@click.command()
@click.argument("revisions", nargs=-1, required=True)
def main(revisions: tuple[str, ...]) -> None:
    """Reproduce REVISIONS one after the other; the table keeps the results of earlier runs."""
    kept = RESULTS / "repro.json"
    rows = {row["revision"]: row for row in read_json(kept)["runs"]} if kept.exists() else {}
    for revision in revisions:
        with tempfile.TemporaryDirectory() as folder:
            rows[revision] = reproduced(revision, Path(folder))
    write(list(rows.values()))


def write(runs: Sequence[Mapping[str, Any]]) -> None:
    """Write the table; the others are compared with the first run."""

    def shown(revision: str) -> Callable[[Mapping[str, Any]], str]:
        return lambda row: f"{row[revision]:.0f} s"

    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {"stage": lambda row: row["stage"]}
    columns |= {f"`{run['revision']}`": shown(run["revision"]) for run in runs}
    totals = [sum(run["seconds"].values()) for run in runs]
    quality = ", ".join(f"`{run['revision']}` {run['ndcg_at_10']:.4f}" for run in runs)
    save(
        "repro",
        "`make repro`, stage by stage",
        list(table(runs)),
        columns=columns,
        notes=[
            f"Fresh clones with an empty cache, packages installed, one run each: {totals[0] / totals[-1]:.2f} times "
            "as fast. DVC's own work between two stages counts for the first of them.",
            f"nDCG@10 on `apidocs`: {quality}.",
        ],
        settings={"revisions": [run["revision"] for run in runs]},
    )
    write_json(RESULTS / "repro.json", {**read_json(RESULTS / "repro.json"), "runs": runs})


if __name__ == "__main__":
    main()
