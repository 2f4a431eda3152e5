"""A comparison in words: rows of text for the terminal and the page, and a sentence for each difference."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from effir.evaluation.variant import Variant
from effir.lab.comparison import Comparison, Difference

UNKNOWN = "-"
SPEEDS = {
    "documents a second": "document_speedup",
    "queries, one by one": "query_speedup",
    "documents, as served": "served_document_speedup",
    "queries, as served": "served_query_speedup",
}


@dataclass(frozen=True)
class Row:
    """A label and a text a variant; ``best`` holds the columns that win, ``first`` begins a group of rows.

    The row of a ``param`` says nothing where all its cells are equal.
    """

    label: str
    cells: tuple[str, ...]
    best: frozenset[int] = frozenset()
    first: bool = False
    param: bool = False


def rows(comparison: Comparison) -> list[Row]:
    """Quality set by set, then size and speed, then the params that differ."""
    found: list[Row] = []
    for name in comparison.sets:
        found += _grouped(_quality(comparison, name))
    found += _grouped(_cost(comparison.variants))
    params = [
        Row(key, tuple(UNKNOWN if value is None else value for value in values), param=True)
        for key, values in comparison.params.items()
    ]
    return found + _grouped(params)


def heading(comparison: Comparison) -> str:
    """Say against what the sentences are told, and for how many tests their p is corrected; empty for one variant."""
    if not comparison.differences:
        return ""
    corrected = f", p corrected for {comparison.tests} tests (Holm)" if comparison.tests > 1 else ""
    return f"nDCG@10 against {comparison.baseline.name}, query by query{corrected}:"


def sentences(comparison: Comparison) -> list[str]:
    """Say each difference in words, one line a variant and set."""
    return [_sentence(difference) for difference in comparison.differences]


def footnotes(comparison: Comparison) -> list[str]:
    """Say what the figures mean, and what to doubt."""
    meant = ["Speeds are times the base model's, measured beside it in the same run: median (least to most)."]
    if comparison.sets:
        meant[:0] = ["nDCG@10 with its 95 % bounds (bootstrap over queries).", *_about_seeds(comparison)]
    return meant + [f"{note[0].upper()}{note[1:]}." for note in comparison.notes]


def _about_seeds(comparison: Comparison) -> list[str]:
    """Say what the tests cannot know: how another seed's run would have done."""
    if any("seeds" in figures for variant in comparison.variants for figures in variant.quality.values()):
        return ["A variant of several seeds is the mean of each query's scores, with size and speed of the first."]
    if comparison.tests:
        return ["Bounds and tests speak of queries: runs by another seed may differ by more (--seeds joins them)."]
    return []


def stars(p: float) -> str:
    """Mark how sure a difference is.

    >>> [stars(p) for p in (0.0009, 0.009, 0.05, 0.2)]
    ['***', '**', '*', '']
    """
    return "".join("*" for limit in (0.05, 0.01, 0.001) if p <= limit)


def _grouped(group: Iterable[Row]) -> list[Row]:
    return [replace(row, first=i == 0) for i, row in enumerate(group)]


def _quality(comparison: Comparison, name: str) -> Iterator[Row]:
    figures = [variant.quality.get(name, {}) for variant in comparison.variants]
    yield _row(f"{name} nDCG@10", figures, "ndcg_at_10", partial(_spread, key="ndcg_at_10", form=".3f"), max)
    if len(comparison.variants) > 1:
        found = [comparison.difference(variant.name, name) for variant in comparison.variants]
        yield Row("  difference", tuple(_change(difference) for difference in found))
        yield Row("  paired test", tuple(_test(difference) for difference in found))
    if any("seeds" in each for each in figures):
        yield Row("  seeds", tuple(_seeds(each) for each in figures))
    yield _row("  Recall@100", figures, "recall_at_100", lambda each: f"{each['recall_at_100']:.3f}", max)
    yield _row("  BM25 nDCG@10", figures, "bm25_ndcg_at_10", lambda each: f"{each['bm25_ndcg_at_10']:.3f}")


def _cost(variants: Sequence[Variant]) -> Iterator[Row]:
    cost = [variant.cost for variant in variants]
    yield _row("non-embedding parameters", cost, "parameters_without_embeddings", _parameters, min)
    yield _row("weights on disk", cost, "bytes", lambda each: f"{_scaled(each['bytes'])}B", min)
    yield _row("FLOPs a token", cost, "flops_speedup", _flops, max)
    for label, key in SPEEDS.items():
        if any(key in each for each in cost):
            yield _row(label, cost, key, partial(_spread, key=key, form=".2f", unit=" times"), max)


def _row(
    label: str,
    figures: Sequence[Mapping[str, float]],
    key: str,
    shown: Callable[[Mapping[str, float]], str],
    best: Callable[[list[float]], float] | None = None,
) -> Row:
    """Show figure ``key`` of each variant; mark the best where there is a choice."""
    cells = tuple(shown(each) if key in each else UNKNOWN for each in figures)
    known = [each[key] for each in figures if key in each]
    if best is None or len(set(known)) < 2:
        return Row(label, cells)
    winner = best(known)
    return Row(label, cells, frozenset(i for i, each in enumerate(figures) if each.get(key) == winner))


def _spread(figures: Mapping[str, float], key: str, form: str, unit: str = "") -> str:
    """Show a figure and its bounds, where they were kept.

    >>> _spread({"x": 1.5, "x_low": 1.25, "x_high": 2.0}, "x", ".2f", " times")
    '1.50 times (1.25 to 2.00)'
    """
    bounds = [figures[f"{key}{end}"] for end in ("_low", "_high") if f"{key}{end}" in figures]
    shown = f" ({bounds[0]:{form}} to {bounds[1]:{form}})" if len(bounds) == 2 else ""
    return f"{figures[key]:{form}}{unit}{shown}"


def _seeds(figures: Mapping[str, float]) -> str:
    """Say how many seeds a figure is the mean of, and the lowest and the highest of them.

    >>> _seeds({"seeds": 3.0, "ndcg_at_10_lowest": 0.648, "ndcg_at_10_highest": 0.666}), _seeds({"ndcg_at_10": 0.6})
    ('3: 0.648 to 0.666', '1')
    """
    if not figures:
        return UNKNOWN
    if "seeds" not in figures:
        return "1"
    return f"{figures['seeds']:.0f}: {figures['ndcg_at_10_lowest']:.3f} to {figures['ndcg_at_10_highest']:.3f}"


def _parameters(cost: Mapping[str, float]) -> str:
    share = f" ({100 * cost['kept_share']:.1f} %)" if "kept_share" in cost else ""
    return _scaled(cost["parameters_without_embeddings"]).strip() + share


def _scaled(amount: float) -> str:
    """Shorten an amount, ready for a unit.

    >>> _scaled(68673600), _scaled(387959824), _scaled(12)
    ('68.7 M', '388.0 M', '12 ')
    """
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if amount >= size:
            return f"{amount / size:.1f} {prefix}"
    return f"{amount:.0f} "


def _flops(cost: Mapping[str, float]) -> str:
    """Say how many times less arithmetic than the base model's.

    >>> _flops({"flops_speedup": 1.546}), _flops({"flops_speedup": 1.0}), _flops({"flops_speedup": 0.8})
    ('1.55 less', 'the same', '1.25 more')
    """
    ratio = cost["flops_speedup"]
    if f"{ratio:.2f}" == "1.00":
        return "the same"
    return f"{ratio:.2f} less" if ratio > 1 else f"{1 / ratio:.2f} more"


def _change(difference: Difference | None) -> str:
    if difference is None:
        return "baseline"
    if difference.test is None or difference.p is None:
        return UNKNOWN
    return f"{difference.test.difference:+.3f} {stars(difference.p)}".rstrip()


def _test(difference: Difference | None) -> str:
    if difference is None:
        return ""
    if difference.test is None or difference.p is None:
        return "not tested"
    return f"{_p(difference.p)}, {difference.test.queries} queries"


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
    by = f"{abs(found.test.difference):.3f}"
    way = "better" if found.test.difference > 0 else "worse"
    verdict = f"significantly {way}, by {by}" if found.significant else f"not significantly {way}, by {by}"
    if found.test.difference == 0:
        verdict = "no difference"
    counts = f"{found.wins} better, {found.ties} equal, {found.losses} worse"
    return f"{about}{verdict} ({_p(found.p)}; {counts})"
