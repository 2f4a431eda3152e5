"""`python -m tests.chaos`: kills, full disks, lost servers and damaged files, and a table of what came of them."""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from tests.chaos.scenario import Trial


@click.command()
@click.argument("parts", nargs=-1)
@click.option("--work", type=click.Path(path_type=Path), default=Path(".effir/chaos"), show_default=True)
@click.option("--seed", default=0, show_default=True, help="What draws the moments and the damage.")
@click.option(
    "--trials", default=200, show_default=True, help="Trials of each part; a part says what it makes of them."
)
@click.option("--table", "only_table", is_flag=True, help="Print the table of what was tried so far, and try nothing.")
def main(parts: tuple[str, ...], work: Path, seed: int, trials: int, only_table: bool) -> None:
    """Try PARTS, by default all; what was tried with the same seed is not tried again. Status 1 if a fault was found.

    Delete the folder --work after a change of effir: it counts what was tried by the code before too.
    """
    work = work.resolve() / f"seed-{seed}"
    work.mkdir(parents=True, exist_ok=True)
    record = work / "trials.jsonl"
    if not only_table:
        make(parts, work, seed, trials, record)
    found = list(read(record))
    click.echo(table(found))
    sys.exit(any(trial.fault for trial in found))


def make(parts: tuple[str, ...], work: Path, seed: int, trials: int, record: Path) -> None:
    """Make the trials and write each down."""
    from tests.chaos.parts import PARTS, preload

    if unknown := set(parts) - PARTS.keys():
        raise click.UsageError(f"no part is called {min(unknown)!r}: name some of {', '.join(PARTS)}")
    preload()
    for name in parts or PARTS:
        for trial in PARTS[name](work, seed, trials, done(record)):
            with record.open("a") as lines:
                lines.write(json.dumps(asdict(trial)) + "\n")
            if trial.fault:
                click.echo(f"{trial.scenario} {trial.number}: {trial.fault}", err=True)


def read(record: Path) -> Iterator[Trial]:
    """Read what was tried; the last line may be torn by a kill."""
    for line in record.read_text().splitlines() if record.exists() else ():
        try:
            yield Trial(**json.loads(line))
        except ValueError:
            continue


def done(record: Path) -> dict[str, set[int]]:
    """Return the numbers of the trials of each scenario that were made."""
    found: dict[str, set[int]] = {}
    for trial in read(record):
        found.setdefault(trial.scenario, set()).add(trial.number)
    return found


def table(trials: list[Trial]) -> str:
    """Count trials by scenario and outcome, as Markdown."""
    outcomes = list(Counter(trial.outcome for trial in trials))
    lines = [f"| scenario | trials | {' | '.join(outcomes)} | faults |", "|---" * (len(outcomes) + 3) + "|"]
    for scenario in dict.fromkeys(trial.scenario for trial in trials):
        own = [trial for trial in trials if trial.scenario == scenario]
        counts = Counter(trial.outcome for trial in own)
        cells = [scenario, len(own), *(counts[name] or "" for name in outcomes), sum(bool(t.fault) for t in own)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
