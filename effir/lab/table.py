"""Write a comparison as text: rows for the terminal and the page, and a sentence for each difference."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from effir.evaluation.baselines import baselines_in, title
from effir.evaluation.variant import Variant
from effir.lab.comparison import Comparison, Difference

UNKNOWN = "-"
SPEEDS = {
    "documents a second": "document_speedup",
    "queries, one by one": "query_speedup",
    "documents, as served": "served_document_speedup",
    "queries, as served": "served_query_speedup",
}
SERVED = (
    "As served: the retriever in its own backend and precision, against the base model in sentence-transformers. The "
    "other speeds run both models in the same runtime, so they show the effect of the cut alone."
)


@dataclass(frozen=True)
class Row:
    """A label and a cell for each variant; ``best`` are the columns of the best value, ``first`` starts a group.

    A row of a ``param`` is left out of a table in which its cells are equal.
    """

    label: str
    cells: tuple[str, ...]
    best: frozenset[int] = frozenset()
    first: bool = False
    param: bool = False


def rows(comparison: Comparison) -> list[Row]:
    """List quality set by set, then size and speed, then the params that differ."""
    params = [
        Row(key, tuple(UNKNOWN if value is None else value for value in values), param=True)
        for key, values in comparison.params.items()
    ]
    groups = [*(_quality(comparison, name) for name in comparison.sets), _cost(comparison.variants), params]
    return [replace(row, first=i == 0) for group in groups for i, row in enumerate(group)]


def heading(comparison: Comparison) -> str:
    """Name the baseline of the sentences, and the number of tests for which p is corrected; empty for one variant."""
    if not comparison.differences:
        return ""
    corrected = f", p corrected for {comparison.tests} tests (Holm)" if comparison.tests > 1 else ""
    return f"nDCG@10 against {comparison.baseline.name}, query by query{corrected}:"


def sentences(comparison: Comparison) -> list[str]:
    """Describe each difference in one sentence."""
    return [_sentence(difference) for difference in comparison.differences]


def footnotes(comparison: Comparison) -> list[str]:
    """Explain the metrics, and say what is uncertain."""
    about = ["nDCG@10, and differences to baselines, with 95 % intervals (bootstrap over queries)."]
    about += _about_tests(comparison)
    notes = about if comparison.sets else []
    notes.append("Speeds are relative to the base model, measured in turn with it: median (lowest to highest).")
    if any("served_document_speedup" in variant.cost for variant in comparison.variants):
        notes.append(SERVED)
    return notes + [f"{note[0].upper()}{note[1:]}." for note in comparison.notes]


def _about_tests(comparison: Comparison) -> Iterator[str]:
    if comparison.tests:
        yield "Stars mark p of at most 0.05 (*), 0.01 (**) and 0.001 (***)."
    if any("seeds" in metrics for variant in comparison.variants for metrics in variant.quality.values()):
        yield "A variant of several seeds is the mean of each query's scores, with size and speed of the first seed."
    elif comparison.tests:
        yield "Tests are over queries: other seeds may differ by more (--seeds joins runs of several)."


def stars(p: float) -> str:
    """Mark the significance of a difference.

    >>> [stars(p) for p in (0.0009, 0.009, 0.05, 0.2)]
    ['***', '**', '*', '']
    """
    return "".join("*" for limit in (0.05, 0.01, 0.001) if p <= limit)


def _quality(comparison: Comparison, name: str) -> Iterator[Row]:
    metrics = [variant.quality.get(name, {}) for variant in comparison.variants]
    yield _row(f"{name} nDCG@10", metrics, "ndcg_at_10", partial(spread, key="ndcg_at_10"), max)
    if len(comparison.variants) > 1:
        found = [comparison.difference(variant.name, name) for variant in comparison.variants]
        shown = [_difference(each) for each in found]
        yield Row("  difference", tuple(change for change, _ in shown))
        yield Row("  paired test", tuple(test for _, test in shown))
    if any("seeds" in each for each in metrics):
        yield Row("  seeds", tuple(seeds(each) for each in metrics))
    yield _row("  Recall@100", metrics, "recall_at_100", partial(spread, key="recall_at_100"), max)
    for name in baselines_in(*metrics):
        key, against = f"{name}_ndcg_at_10", f"vs_{name}"
        yield _row(f"  {title(name)} nDCG@10", metrics, key, partial(spread, key=key))
        if any(against in each for each in metrics):
            yield _row(f"  difference to {title(name)}", metrics, against, partial(spread, key=against, form="+.3f"))


def _cost(variants: Sequence[Variant]) -> Iterator[Row]:
    cost = [variant.cost for variant in variants]
    yield _row("non-embedding parameters", cost, "parameters_without_embeddings", _parameters, min)
    yield _row("weights on disk", cost, "bytes", lambda each: f"{_scaled(each['bytes'])}B", min)
    yield _row("FLOPs a token", cost, "flops_speedup", _flops, max)
    for label, key in SPEEDS.items():
        if any(key in each for each in cost):
            yield _row(label, cost, key, partial(spread, key=key, form=".2f", unit=" times"), max)
        for other in dict.fromkeys(other for each in cost for other in each if other.endswith(f"_{key}")):
            if other not in SPEEDS.values():  # of a baseline
                shown = partial(spread, key=other, form=".2f", unit=" times")
                yield _row(f"  {other.removesuffix(f'_{key}')}", cost, other, shown)


def _row(
    label: str,
    metrics: Sequence[Mapping[str, float]],
    key: str,
    shown: Callable[[Mapping[str, float]], str],
    best: Callable[[list[float]], float] | None = None,
) -> Row:
    """Show the metric ``key`` of each variant; mark the best if values differ."""
    cells = tuple(shown(each) if key in each else UNKNOWN for each in metrics)
    known = [each[key] for each in metrics if key in each]
    if best is None or len(set(known)) < 2:
        return Row(label, cells)
    winner = best(known)
    return Row(label, cells, frozenset(i for i, each in enumerate(metrics) if each.get(key) == winner))


def spread(metrics: Mapping[str, float], key: str, form: str = ".3f", unit: str = "") -> str:
    """Show a metric and its interval, if it was kept.

    >>> spread({"x": 1.5, "x_low": 1.25, "x_high": 2.0}, "x", ".2f", " times")
    '1.50 times (1.25 to 2.00)'
    """
    low, high = (metrics.get(f"{key}_{end}") for end in ("low", "high"))
    shown = "" if low is None or high is None else f" ({low:{form}} to {high:{form}})"
    return f"{metrics[key]:{form}}{unit}{shown}"


def seeds(metrics: Mapping[str, float]) -> str:
    """Show the number of seeds of a metric, and the lowest and the highest.

    >>> seeds({"seeds": 3.0, "ndcg_at_10_lowest": 0.648, "ndcg_at_10_highest": 0.666}), seeds({"ndcg_at_10": 0.6})
    ('3: 0.648 to 0.666', '1')
    """
    if "seeds" not in metrics:
        return "1" if metrics else UNKNOWN
    return f"{metrics['seeds']:.0f}: {metrics['ndcg_at_10_lowest']:.3f} to {metrics['ndcg_at_10_highest']:.3f}"


def _parameters(cost: Mapping[str, float]) -> str:
    share = f" ({100 * cost['kept_share']:.1f} %)" if "kept_share" in cost else ""
    return _scaled(cost["parameters_without_embeddings"]).strip() + share


def _scaled(amount: float) -> str:
    """Shorten a number, to be followed by a unit.

    >>> _scaled(68673600), _scaled(387959824), _scaled(12)
    ('68.7 M', '388.0 M', '12 ')
    """
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if amount >= size:
            return f"{amount / size:.1f} {prefix}"
    return f"{amount:.0f} "


def _flops(cost: Mapping[str, float]) -> str:
    """Compare the arithmetic with the base model's.

    >>> _flops({"flops_speedup": 1.546}), _flops({"flops_speedup": 1.0}), _flops({"flops_speedup": 0.8})
    ('1.55 less', 'the same', '1.25 more')
    """
    ratio = cost["flops_speedup"]
    change = f"{ratio:.2f} less" if ratio > 1 else f"{1 / ratio:.2f} more"
    return "the same" if f"{ratio:.2f}" == "1.00" else change


def _difference(found: Difference | None) -> tuple[str, str]:
    """Show a difference with its stars, and its test."""
    if found is None:
        return "baseline", ""
    if found.test is None or found.p is None:
        return UNKNOWN, "not tested"
    change = f"{found.test.difference:+.3f} {stars(found.p)}".rstrip()
    return change, f"{_p(found.p)}, {found.test.queries} queries"


def _p(p: float) -> str:
    """Show a p-value to two digits.

    >>> _p(0.00312), _p(0.5), _p(0.00004)
    ('p = 0.0031', 'p = 0.5', 'p < 0.0001')
    """
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}"


def _sentence(found: Difference) -> str:
    about = f"{found.variant} on {found.set}: "
    if found.test is None or found.p is None:
        return f"{about}not tested, because {found.reason}"
    by = found.test.difference
    change = f"{'higher' if by > 0 else 'lower'} nDCG@10, by {abs(by):.3f}"
    verdict = change if found.significant else f"statistically indistinguishable, {by:+.3f}" if by else "no difference"
    counts = f"{found.wins} queries better, {found.ties} equal, {found.losses} worse"
    return f"{about}{verdict} ({_p(found.p)}; {counts})"
