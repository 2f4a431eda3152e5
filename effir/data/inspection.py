"""The checks of `effir data check` on every collection that the pipeline installs, once for its content."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from effir.data.beir import CORPUS, QRELS, QUERIES
from effir.data.checking import LEAK, Finding, Report, check_collection
from effir.errors import EffirError
from effir.files import read_json, sha256_of, text_digest, write_json

Use = Literal["train", "evaluation", "trained_on", "texts"]
"""What a collection is for; ``trained_on``: evaluation, and training on its train split."""


def inspect_collection(folder: Path, name: str, use: Use, cache: Path, public: bool) -> None:
    """Refuse a collection whose faults make what it is used for wrong; print all its other faults, once.

    Of a ``public`` set every fault is printed and none refused: published metrics contain them. Queries that the train
    split has too are an error only if that is trained on.
    """
    report, is_new = _report(folder, cache / "checks")
    evaluates = use in ("evaluation", "trained_on")
    if evaluates and report.evaluated is None:
        there = ", ".join(report.judged)
        raise EffirError(f"{name} cannot be evaluated, it has only qrels of {there}: add qrels/test.tsv")
    split = report.evaluated if evaluates else use
    if wrong := [str(each) for each in report.errors if not public and _matters(each, split, use)]:
        raise EffirError(f"{name} cannot be used: {'; '.join(wrong)}. `effir data check` lists all its faults")
    said = [str(each) for each in report.findings]
    if said and not is_new:
        said = [f"{len(said)} kinds of faults, as before; `effir data check` lists them"]
    for line in [*said, *(report.notes if evaluates else [])]:
        print(f"{name}: {line}", file=sys.stderr)


def _report(folder: Path, kept: Path) -> tuple[Report, bool]:
    """Return the report on a folder, and whether it is new: no report on the same bytes by the same checks is kept."""
    made_of = text_digest(f"{sha256_of(folder)} {sha256_of(Path(check_collection.__code__.co_filename))}")
    path = kept / f"{made_of[:16]}.json"
    if path.is_file():
        known = read_json(path)
        return Report(**{**known, "findings": [Finding(**each) for each in known["findings"]]}), False
    report = check_collection(folder, by_beir=False)
    write_json(path, asdict(report))
    return report, True


def _matters(fault: Finding, split: str | None, use: Use) -> bool:
    """Return whether an error makes the use of a split wrong."""
    if fault.fault == LEAK and use != "trained_on":
        return False
    return fault.file in (CORPUS, f"{QRELS}/{split}.tsv") or (fault.file == QUERIES and split != "texts")
