"""The promotion gate: whether a challenger may take the champion's place. Plain figures in, reasons out."""

from collections.abc import Mapping
from dataclasses import dataclass

from effir.evaluation.significance import SIGNIFICANT, PairedTest, holm, paired_test


@dataclass(frozen=True)
class Candidate:
    """What the gate looks at of a model version.

    ``scores``: set to query id to nDCG@10; ``data``: set to the hash of its corpus, queries and judgements.
    ``speedup``: documents a second over the base model; ``kept_share``: of its non-embedding parameters.
    """

    version: int
    scores: Mapping[str, Mapping[str, float]]
    data: Mapping[str, str]
    speedup: float
    kept_share: float


@dataclass(frozen=True)
class Gate:
    """Limits: ``max_drop`` in points of nDCG@10 (0 to 1) below the champion, on each set."""

    max_drop: float
    min_speedup: float
    max_kept_share: float


def refusals(challenger: Candidate, champion: Candidate | None, gate: Gate) -> list[str]:
    """Name each reason not to promote ``challenger``, a sentence each; none where it may pass.

    A set counts against it where it loses more than ``gate.max_drop`` to the champion, significantly at 5 % by a paired
    test over queries, corrected for the number of sets (Holm, 1979). Without a champion only the limits count.
    """
    found = _beyond_limits(challenger, gate)
    if champion is None:
        return found
    comparable = []
    for name in sorted(champion.scores):
        if name not in challenger.scores:
            found.append(
                f"{name}: version {challenger.version} was not evaluated on it, version {champion.version} was"
            )
        elif challenger.data[name] != champion.data[name]:
            found.append(
                f"{name}: versions {challenger.version} and {champion.version} were evaluated on different data"
            )
        else:
            comparable.append(name)
    tests = {name: _drop(challenger.scores[name], champion.scores[name], gate.max_drop) for name in comparable}
    for name, p in holm({name: test.p for name, test in tests.items()}).items():
        beyond = tests[name].difference
        if beyond < 0 and p <= SIGNIFICANT:
            found.append(
                f"{name}: nDCG@10 is {gate.max_drop - beyond:.3f} below version {champion.version}'s, "
                f"significantly more than register.max_drop = {gate.max_drop:g} "
                f"(p = {p:.2g}, {tests[name].queries} queries)"
            )
    return found


def _beyond_limits(challenger: Candidate, gate: Gate) -> list[str]:
    found = []
    if challenger.speedup < gate.min_speedup:
        found.append(
            f"it encodes documents {challenger.speedup:.2f} times as fast as the base model, "
            f"less than register.min_speedup = {gate.min_speedup:g}"
        )
    if challenger.kept_share > gate.max_kept_share:
        found.append(
            f"it keeps {challenger.kept_share:.1%} of the base model's non-embedding parameters, "
            f"more than register.max_kept_share = {gate.max_kept_share:g}"
        )
    return found


def _drop(challenger: Mapping[str, float], champion: Mapping[str, float], allowed: float) -> PairedTest:
    """Test whether the challenger, raised by what it may lose, still differs from the champion."""
    return paired_test({query: score + allowed for query, score in challenger.items()}, champion)
