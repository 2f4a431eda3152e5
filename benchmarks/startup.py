"""Time the start of commands: `effir --help`, and the imports of every stage."""

import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from benchmarks.table import save

STAGES = sorted(path.stem for path in Path("stages").glob("*.py") if "@click.command" in path.read_text("utf-8"))
HEAVY = ("torch", "transformers", "sentence_transformers", "mlflow", "faiss", "openvino")


def seconds(command: list[str], rounds: int) -> list[float]:
    """Time a process ``rounds`` times, after one run that fills the caches."""
    found = []
    for _ in range(rounds + 1):
        started = perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        found.append(perf_counter() - started)
    return found[1:]


def heavy(code: str) -> list[str]:
    """Name the large packages that ``code`` imports."""
    listed = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"],
        check=True,
        capture_output=True,
        text=True,
    )
    return listed.stdout.split()


@click.command()
@click.option("--rounds", default=5, show_default=True)
def main(rounds: int) -> None:
    """Time the start of the `effir` command and of every stage, without their work."""
    programs = {"effir --help": (["-m", "effir.cli", "--help"], "import effir.cli")}
    programs |= {f"stages.{name}": (["-m", f"stages.{name}", "--help"], f"import stages.{name}") for name in STAGES}
    rows = []
    for name, (arguments, code) in programs.items():
        took = seconds([sys.executable, *arguments], rounds)
        rows.append({"program": name, "seconds": took, "heavy": heavy(code)})
        click.echo(f"{name}: {statistics.median(took):.2f} s")
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "program": lambda row: f"`{row['program']}`",
        "median, s": lambda row: f"{statistics.median(row['seconds']):.2f}",
        "lowest to highest, s": lambda row: f"{min(row['seconds']):.2f} to {max(row['seconds']):.2f}",
        "imports": lambda row: ", ".join(row["heavy"]) or "nothing large",
    }
    notes = [
        "Whole processes, files in the page cache. The MLflow run of a stage is opened later, and not counted here."
    ]
    save("startup", "Starting up", rows, columns=columns, notes=notes, settings={"rounds": rounds})


if __name__ == "__main__":
    main()
