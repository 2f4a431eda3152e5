"""Variants side by side: their figures, paired differences to the first, the params that set them apart. Plain data."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from effir.errors import EffirError
from effir.evaluation.significance import SIGNIFICANT, PairedTest, holm, paired_test
from effir.evaluation.variant import Variant
from effir.params import same_text


@dataclass(frozen=True)
class Difference:
    """A variant's nDCG@10 less the baseline's on one set; ``wins``, ``ties`` and ``losses`` count its queries.

    ``p`` is the test's own, corrected for all tests of the comparison. Where there is no test, ``reason`` says why.
    """

    variant: str
    set: str
    test: PairedTest | None = None
    p: float | None = None
    wins: int = 0
    ties: int = 0
    losses: int = 0
    reason: str = ""

    @property
    def significant(self) -> bool:
        """Whether the corrected p is at most 0.05."""
        return self.p is not None and self.p <= SIGNIFICANT


@dataclass(frozen=True)
class Comparison:
    """What was found; the first variant is the baseline. ``params``: key to each variant's value, where they differ."""

    variants: tuple[Variant, ...]
    sets: tuple[str, ...]
    differences: tuple[Difference, ...]
    params: dict[str, list[str | None]]
    notes: tuple[str, ...]

    @property
    def baseline(self) -> Variant:
        """The variant that the others are compared with."""
        return self.variants[0]

    @property
    def tests(self) -> int:
        """The number of tests for which each p is corrected."""
        return sum(difference.test is not None for difference in self.differences)

    def difference(self, variant: str, name: str) -> Difference | None:
        """Find the difference of one variant on one set; None for the baseline."""
        return next((d for d in self.differences if (d.variant, d.set) == (variant, name)), None)


def compare(variants: Sequence[Variant]) -> Comparison:
    """Compare every variant with the first: a paired test a set, corrected for their number (Holm, 1979).

    Variants that were evaluated on different data get a reason instead. EffirError: no variant, or one name twice.
    """
    names = [variant.name for variant in variants]
    if not names:
        raise EffirError("there is nothing to compare: name at least one revision or run")
    for name in names:
        if names.count(name) > 1:
            raise EffirError(f"{name} is named twice: name each variant once")
    sets = tuple(dict.fromkeys(name for variant in variants for name in variant.quality))
    pairs = [_difference(variant, variants[0], name) for variant in variants[1:] for name in sets]
    return Comparison(tuple(variants), sets, _corrected(pairs), differing_params(variants), tuple(_notes(variants)))


def query_differences(variant: Variant, baseline: Variant, name: str) -> list[float]:
    """List nDCG@10 of ``variant`` less the baseline's, query by query, the largest gain first."""
    ours, theirs = variant.scores[name], baseline.scores[name]
    return sorted((ours[query] - theirs[query] for query in ours), reverse=True)


def differing_params(variants: Sequence[Variant]) -> dict[str, list[str | None]]:
    """Keep the keys whose values are not one and the same; None where a variant has no such key.

    ``5e-4`` and ``0.0005`` are the same. A variant whose params nobody kept sets nothing apart.
    """
    known = [variant.params for variant in variants if variant.params]
    keys = dict.fromkeys(key for params in known for key in params)
    apart = [key for key in keys if len({same_text(params.get(key)) for params in known}) > 1]
    return {key: [_shown(variant.params.get(key)) for variant in variants] for key in apart}


def _shown(value: object) -> str | None:
    return None if value is None else str(value)


def _difference(variant: Variant, baseline: Variant, name: str) -> Difference:
    reason = _obstacle(variant, baseline, name)
    if reason:
        return Difference(variant.name, name, reason=reason)
    each = query_differences(variant, baseline, name)
    wins, losses = sum(one > 0 for one in each), sum(one < 0 for one in each)
    test = paired_test(variant.scores[name], baseline.scores[name])
    return Difference(variant.name, name, test, test.p, wins, len(each) - wins - losses, losses)


def _obstacle(variant: Variant, baseline: Variant, name: str) -> str:
    """Say why the two cannot be tested against each other on a set; empty where they can."""
    for one in (variant, baseline):
        if name not in one.quality:
            return f"{one.name} was not evaluated on it"
        if not one.scores.get(name):
            return f"the scores of {one.name}'s queries were not kept"
    hashes = {one.data.get(name, "") for one in (variant, baseline)}
    if len(hashes) > 1 and "" not in hashes:
        return "the two were evaluated on different data"
    unpaired = len(variant.scores[name].keys() ^ baseline.scores[name].keys())
    return f"the two were evaluated on different queries ({unpaired} are unpaired)" if unpaired else ""


def _corrected(differences: Sequence[Difference]) -> tuple[Difference, ...]:
    corrected = holm({str(i): d.p for i, d in enumerate(differences) if d.p is not None})
    return tuple(
        Difference(d.variant, d.set, d.test, corrected.get(str(i)), d.wins, d.ties, d.losses, d.reason)
        for i, d in enumerate(differences)
    )


def _notes(variants: Sequence[Variant]) -> Iterator[str]:
    for variant in variants:
        yield from variant.notes
    if len({variant.params["model.base"] for variant in variants if "model.base" in variant.params}) > 1:
        yield "the base models differ: sizes and speeds are each told against its own"
    if len({variant.cost["threads"] for variant in variants if "threads" in variant.cost}) > 1:
        yield "speeds were measured with different numbers of threads: compare them with care"
