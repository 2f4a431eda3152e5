"""Runs that nothing but a seed sets apart, as one: means over seeds, and how far seeds lie apart."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from effir.errors import EffirError
from effir.evaluation.significance import bootstrap_bounds
from effir.evaluation.variant import Variant
from effir.lab.studies import SEED
from effir.params import same_text


def over_seeds(variants: Sequence[Variant]) -> list[Variant]:
    """Join the variants whose params differ in ``training.seed`` alone, under the name of the first.

    A query's score is its mean over seeds, so bounds and tests speak of queries; ``seeds``, ``ndcg_at_10_lowest`` and
    ``ndcg_at_10_highest`` speak of seeds. Size, speed and layers are those of the first. EffirError where one recipe
    has a seed twice, or was evaluated on different data.
    """
    recipes: dict[tuple[tuple[str, str], ...], list[Variant]] = {}
    for variant in variants:
        recipe = sorted((key, same_text(value)) for key, value in variant.params.items() if key != SEED)
        recipes.setdefault(tuple(recipe), []).append(variant)
    return [members[0] if len(members) == 1 else _joined(members) for members in recipes.values()]


def _joined(members: Sequence[Variant]) -> Variant:
    first = members[0]
    if len({same_text(member.params.get(SEED, 0)) for member in members}) < len(members):
        raise EffirError(f"{' and '.join(m.name for m in members)} are one recipe and one seed: remove all but one")
    if any(member.data != first.data for member in members):
        raise EffirError(f"{' and '.join(m.name for m in members)} were evaluated on different data: run all anew")
    shared = [name for name in first.quality if all(name in member.quality for member in members)]
    scores = {name: _mean_by_query([member.scores[name] for member in members]) for name in shared}
    quality = {name: _figures([member.quality[name] for member in members], scores[name]) for name in shared}
    notes = dict.fromkeys(note for member in members for note in member.notes)
    return replace(first, quality=quality, scores=scores, notes=tuple(notes))


def _mean_by_query(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {query: float(np.mean([scores[query] for scores in seeds])) for query in seeds[0]}


def _figures(seeds: Sequence[Mapping[str, float]], scores: Mapping[str, float]) -> dict[str, float]:
    means = {key: _mean([figures[key] for figures in seeds]) for key in seeds[0]}
    each = [figures["ndcg_at_10"] for figures in seeds]
    low, high = bootstrap_bounds(list(scores.values()))
    spread = {"seeds": float(len(seeds)), "ndcg_at_10_lowest": min(each), "ndcg_at_10_highest": max(each)}
    return {**means, **spread, "ndcg_at_10_low": low, "ndcg_at_10_high": high}


def _mean(values: Sequence[float]) -> float:
    """Average; what is the same for all seeds, such as BM25's figures, stays that to the last digit."""
    return values[0] if len(set(values)) == 1 else float(np.mean(values))
