"""One command under fire: killed at a moment that a seed draws, judged, repeated, and compared with a calm run."""

import json
import os
import random
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.chaos.fork import Ended, run


@dataclass(frozen=True)
class Trial:
    """What came of one trial; ``fault`` is empty where nothing was lost, mixed or said by a traceback."""

    scenario: str
    number: int
    outcome: str
    fault: str = ""


class Scenario(ABC):
    """A command, what it finds, and what it leaves."""

    name: str

    @abstractmethod
    def prepare(self, root: Path) -> None:
        """Make the folder that the command finds, at its final place: stores keep whole paths."""

    @abstractmethod
    def act(self) -> object:
        """Run the command in the folder; a fork does it."""

    @abstractmethod
    def result(self) -> Any:
        """Say what a reader finds now, as JSON; a fork does it."""

    def allowed(self, before: Any, after: Any, now: Any) -> bool:
        """Whether ``now`` may be found between a kill and the repetition: all of the old, or all of the new."""
        return bool(now in (before, after))

    def was_done(self, repeated: Ended) -> bool:
        """Whether a repetition failed only because the killed run had finished."""
        return False


@dataclass(frozen=True)
class Calm:
    """A run that nobody disturbs: what is found before and after, its file operations and seconds."""

    before: Any
    after: Any
    operations: int
    seconds: float


def trials(scenario: Scenario, work: Path, seed: int, count: int, done: set[int]) -> Iterator[Trial]:
    """Run the trials of a scenario that were not done yet; what they start from is kept in ``work``."""
    home = work / re.sub(r"\W+", "-", scenario.name)
    calm = calm_run(scenario, home)
    for number in range(count):
        if number not in done:
            yield one_trial(scenario, home, calm, number, random.Random(f"{seed} {scenario.name} {number}"))


def calm_run(scenario: Scenario, home: Path) -> Calm:
    """Return the calm run, made once."""
    kept, live, base = home / "calm.json", home / "live", home / "base"
    if kept.is_file():
        return Calm(**json.loads(kept.read_text()))
    shutil.rmtree(home, ignore_errors=True)
    live.mkdir(parents=True)
    must(run(partial(scenario.prepare, live), live))
    shutil.copytree(live, base, symlinks=True)
    before = asked(scenario, live)
    acted = must(run(scenario.act, live))
    calm = Calm(before, asked(scenario, live), acted.operations, acted.seconds)
    kept.write_text(json.dumps(asdict(calm)))
    return calm


def one_trial(scenario: Scenario, home: Path, calm: Calm, number: int, draw: random.Random) -> Trial:
    """Kill the command once, or several times in a row, look, repeat it and look again."""
    live = fresh(home)
    said, outcome = list[str](), "finished first"
    for _ in range(draw.choice((1, 1, 2, 3))):
        by_operation = draw.random() < 0.6
        before, after = draw.randint(1, calm.operations), draw.uniform(0, calm.seconds)
        ended = run(scenario.act, live, before=before) if by_operation else run(scenario.act, live, after=after)
        said.append(ended.output)
        if ended.status == -9:
            outcome = f"killed {'before an operation' if by_operation else 'by the clock'}"
    try:
        now = asked(scenario, live)
        repeated = run(scenario.act, live)
        said.append(repeated.output)
        fault = judged(scenario, calm, now, repeated, asked(scenario, live))
    except AssertionError as broken:
        fault = str(broken)
    if any("Traceback" in text for text in said) and not fault:
        fault = f"a traceback: {next(text for text in said if 'Traceback' in text)[-600:]}"
    return Trial(scenario.name, number, outcome, fault)


def judged(scenario: Scenario, calm: Calm, now: Any, repeated: Ended, at_last: Any) -> str:
    """Name the fault, or return ""."""
    if not scenario.allowed(calm.before, calm.after, now):
        return f"after the kill neither the old nor the new is there: {json.dumps(now)[:600]}"
    if repeated.status and not scenario.was_done(repeated):
        return f"the repetition ended with {repeated.status}: {repeated.output[-600:]}"
    return "" if at_last == calm.after else f"the repetition left something else: {json.dumps(at_last)[:600]}"


def fresh(home: Path) -> Path:
    """Put what the command finds back in its place."""
    live = home / "live"
    shutil.rmtree(live)
    shutil.copytree(home / "base", live, symlinks=True)
    return live


def asked(scenario: Scenario, live: Path) -> Any:
    """Read what a reader finds."""
    answer = live.parent / "answer.json"
    answer.unlink(missing_ok=True)
    must(run(lambda: answer.write_text(json.dumps(scenario.result())), live))
    return json.loads(answer.read_text())


def must(ended: Ended) -> Ended:
    """Return a run that ended well; AssertionError otherwise."""
    assert ended.status == 0, f"status {ended.status}: {ended.output[-1500:]}"
    return ended


def effir(*arguments: str) -> None:
    """Run the command line as a person does."""
    from effir.cli import main

    main(arguments, prog_name="effir")


def kept_env(**values: str) -> None:
    """Set the environment of this process, and so of all forks."""
    os.environ.update(values)
