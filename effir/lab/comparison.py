"""Compare variants: paired tests against the first, and the params that differ. Runs of several seeds are joined."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from effir.errors import EffirError
from effir.evaluation.significance import SIGNIFICANT, PairedTest, bootstrap_bounds, holm, paired_test
from effir.evaluation.variant import Variant
from effir.lab.settings import differing_params
from effir.params import same_text

SEED = "training.seed"


@dataclass(frozen=True)
class Difference:
    """The difference of a variant's nDCG@10 to the baseline's on one set; ``wins``, ``ties``, ``losses`` count queries.

    ``p`` is corrected for all tests of the comparison. ``reason`` says why there is no test.
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
    """The first variant is the baseline. ``params`` has the keys that differ, with the value of each variant."""

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
        """The number of tests, for which each p is corrected."""
        return sum(difference.test is not None for difference in self.differences)

    def difference(self, variant: str, name: str) -> Difference | None:
        """Find the difference of one variant on one set; None for the baseline."""
        return next((d for d in self.differences if (d.variant, d.set) == (variant, name)), None)


def compare(variants: Sequence[Variant]) -> Comparison:
    """Compare every variant with the first by a paired test on each set, corrected for their number (Holm, 1979).

    Variants with different data get a reason instead. EffirError if there is no variant, or one name occurs twice.
    """
    names = [variant.name for variant in variants]
    if not names:
        raise EffirError("there is nothing to compare: name a revision or run")
    if twice := [name for name in names if names.count(name) > 1]:
        raise EffirError(f"{twice[0]} is named twice: name each variant once")
    sets = tuple(dict.fromkeys(name for variant in variants for name in variant.quality))
    params = differing_params([variant.params for variant in variants])
    found = [_difference(variant, variants[0], name) for variant in variants[1:] for name in sets]
    corrected = holm({str(i): each.p for i, each in enumerate(found) if each.p is not None})
    differences = (replace(each, p=corrected.get(str(i))) for i, each in enumerate(found))
    return Comparison(tuple(variants), sets, tuple(differences), params, tuple(_notes(variants)))


def query_differences(variant: Variant, baseline: Variant, name: str) -> list[float]:
    """List nDCG@10 of ``variant`` less the baseline's, query by query, the largest gain first."""
    ours, theirs = variant.scores[name], baseline.scores[name]
    return sorted((ours[query] - theirs[query] for query in ours), reverse=True)


def _difference(variant: Variant, baseline: Variant, name: str) -> Difference:
    if reason := _obstacle(variant, baseline, name):
        return Difference(variant.name, name, reason=reason)
    each = query_differences(variant, baseline, name)
    wins, losses = sum(one > 0 for one in each), sum(one < 0 for one in each)
    test = paired_test(variant.scores[name], baseline.scores[name])
    return Difference(variant.name, name, test, test.p, wins, len(each) - wins - losses, losses)


def _obstacle(variant: Variant, baseline: Variant, name: str) -> str:
    """Say why two variants cannot be tested against each other on a set; empty if they can."""
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


def _notes(variants: Sequence[Variant]) -> Iterator[str]:
    yield from (note for variant in variants for note in variant.notes)
    if len({variant.params["model.base"] for variant in variants if "model.base" in variant.params}) > 1:
        yield "the base models differ: size and speed of each variant are relative to its own base model"
    if len({variant.cost["threads"] for variant in variants if "threads" in variant.cost}) > 1:
        yield "speeds were measured with different numbers of threads, so they are not comparable"


def over_seeds(variants: Sequence[Variant]) -> list[Variant]:
    """Join the variants whose params differ only in ``training.seed``, under the name of the first.

    A query's score is its mean over seeds, so intervals and tests are over queries. Of a difference to a baseline the
    bounds are the means of the seeds' bounds, which are wider than those of the mean. ``seeds``, ``ndcg_at_10_lowest``
    and ``ndcg_at_10_highest`` describe the seeds. Size, speed and layers are those of the first. EffirError if a recipe
    has a seed twice, or was evaluated on different data.
    """
    recipes: dict[tuple[tuple[str, str], ...], list[Variant]] = {}
    for variant in variants:
        recipe = sorted((key, same_text(value)) for key, value in variant.params.items() if key != SEED)
        recipes.setdefault(tuple(recipe), []).append(variant)
    return [members[0] if len(members) == 1 else _joined(members) for members in recipes.values()]


def _joined(members: Sequence[Variant]) -> Variant:
    first = members[0]
    names = " and ".join(member.name for member in members)
    if len({same_text(member.params.get(SEED, 0)) for member in members}) < len(members):
        raise EffirError(f"{names} have the same recipe and the same seed: remove all but one")
    if any(member.data != first.data for member in members):
        raise EffirError(f"{names} were evaluated on different data: run them again")
    shared = [name for name in first.quality if all(name in member.quality for member in members)]
    scores = {
        name: {
            query: float(np.mean([member.scores[name][query] for member in members])) for query in first.scores[name]
        }
        for name in shared
    }
    quality = {name: _joined_metrics([member.quality[name] for member in members], scores[name]) for name in shared}
    notes = dict.fromkeys(note for member in members for note in member.notes)
    return replace(first, quality=quality, scores=scores, notes=tuple(notes))


def _joined_metrics(seeds: Sequence[Mapping[str, float]], scores: Mapping[str, float]) -> dict[str, float]:
    # A value that all seeds share, such as BM25's, keeps its last digit.
    values = {key: [metrics[key] for metrics in seeds] for key in seeds[0]}
    means = {key: each[0] if len(set(each)) == 1 else float(np.mean(each)) for key, each in values.items()}
    each = [metrics["ndcg_at_10"] for metrics in seeds]
    low, high = bootstrap_bounds(list(scores.values()))
    spread = {"seeds": float(len(seeds)), "ndcg_at_10_lowest": min(each), "ndcg_at_10_highest": max(each)}
    return {**means, **spread, "ndcg_at_10_low": low, "ndcg_at_10_high": high}
