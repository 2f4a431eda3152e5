"""Quality against measured speed, all runs of all studies in one picture."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWN
from matplotlib.transforms import Bbox

from effir.evaluation.variant import Variant
from effir.lab.study_plots import BM25, GREY, MORE_STYLES, SPAN, STYLES, tidy

FLOOR = 0.55
"""Share of a panel's best nDCG@10 below which runs stand at its foot, with their figure, and squeeze no other."""

FONT, MARKER = 7.0, 3.0
"""Size of a label beside a point, and half the width of the point's marker, in points of type."""
BESIDE = ((5.0, 3.0), (-5.0, 3.0), (5.0, -10.0), (-5.0, -10.0))
"""Where a label may begin (or, to the left, end), in points of type from its point."""
AWAY = ((8.0, 12.0), (-8.0, 12.0), (8.0, -19.0), (-8.0, -19.0))
"""The same, where all that is taken: a line leads to the point."""
LEADER = {"arrowstyle": "-", "linewidth": 0.5, "shrinkA": 0, "shrinkB": MARKER}

Label = tuple[str, tuple[float, float], str]
"""A text, the point that is meant, in data, and a colour."""


def pareto(studies: Mapping[str, Sequence[Variant]], outsiders: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw nDCG@10 over the measured speed of documents, all runs of all studies, a panel a set; the front is a line.

    Speed is over the full-size model in the same runtime; runs whose speed was taken once (``cost.rounds: 1``) are left
    out, and None is returned where there is no other. BM25 encodes nothing: a level. Runs far below stand at the foot.
    ``outsiders`` are rows of `benchmarks.outsiders`.
    """
    timed = {study: [v for v in variants if _is_timed(v)] for study, variants in studies.items()}
    studies = {study: variants for study, variants in timed.items() if variants}
    sets = list(dict.fromkeys(name for variants in studies.values() for v in variants for name in v.quality))
    styles = dict(zip(studies, cycle(STYLES + MORE_STYLES), strict=False))  # a study looks alike in every panel
    if not sets:
        return None
    columns = min(2, len(sets))
    rows = -(-len(sets) // columns)
    figure = Figure(figsize=(1.5 + 5 * columns, 4.5 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    labelled: list[tuple[Axes, list[Label]]] = []
    for axes, name in zip(panels, sets, strict=False):
        known = {study: [v for v in variants if name in v.quality] for study, variants in studies.items()}
        labels = _by_speed(axes, name, {study: variants for study, variants in known.items() if variants}, styles)
        for row in (row for row in outsiders if name in row["quality"]):
            at = (row["document_speedup"]["median"], row["quality"][name]["ndcg_at_10"])
            axes.plot(*at, "*", color="black", markersize=12, label="_")
            labels.insert(0, (row["name"], at, "black"))
        axes.set(xlabel="documents a second, times the full-size model", ylabel="nDCG@10", title=name)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.margins(x=0.15, y=0.2)
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, high - SPAN), high)
        tidy(axes)
        axes.legend(fontsize=8)
        labelled.append((axes, labels))
    for axes in panels:  # the last row may have one too many
        axes.remove()
    figure.suptitle("Quality against measured encoding speed; at the foot, with their nDCG@10, runs far below")
    figure.draw_without_rendering()  # before, it is not known where anything stands
    for axes, labels in labelled:
        _place(axes, labels)
    return figure


def _by_speed(
    axes: Axes, name: str, studies: Mapping[str, Sequence[Variant]], styles: Mapping[str, tuple[str, str]]
) -> list[Label]:
    """Draw a panel's points, front and level; returns what is to be written beside the points, the front's first."""
    everyone = [variant for variants in studies.values() for variant in variants]
    best = front([_speed_and_quality(variant, name) for variant in everyone])
    foot = FLOOR * best[0][1]
    first, others = list[Label](), list[Label]()
    for study, variants in studies.items():
        colour, marker = styles[study]
        found = [(variant.name, *_speed_and_quality(variant, name)) for variant in variants]
        high, low = ([one for one in found if (one[2] < foot) is below] for below in (False, True))
        axes.plot([x for _, x, _ in high], [y for *_, y in high], marker, color=colour, label=study)
        (drawn,) = axes.plot([x for _, x, _ in low], [foot for _ in low], color=colour, linestyle="none", label="_")
        drawn.set(marker=CARETDOWN, markersize=8)
        for run, x, y in high:
            (first if (x, y) in best else others).append((run, (x, y), colour))
        others += [(f"{run} {y:.2f}", (x, foot), colour) for run, x, y in low]
    shown = [at for at in best if at[1] >= foot]
    axes.plot(*zip(*shown, strict=True), color=GREY, linewidth=1, zorder=0, label="best at its speed")
    for level in {v.quality[name][BM25] for v in everyone if BM25 in v.quality[name]}:
        axes.axhline(level, color=GREY, linestyle="--", label="BM25")
    return first + others


def _is_timed(variant: Variant) -> bool:
    """Tell whether the speed is of several rounds: of one, the least is the most."""
    ends = [variant.cost.get(f"document_speedup_{end}") for end in ("low", "high")]
    return None in ends or ends[0] != ends[1]


def _speed_and_quality(variant: Variant, name: str) -> tuple[float, float]:
    return variant.cost["document_speedup"], variant.quality[name]["ndcg_at_10"]


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Keep the points (speed, quality) that none is better than in both, the slowest first.

    >>> front([(1.0, 0.7), (2.0, 0.6), (1.5, 0.5), (3.0, 0.2)])
    [(1.0, 0.7), (2.0, 0.6), (3.0, 0.2)]
    """
    kept: list[tuple[float, float]] = []
    for speed, quality in sorted(points, reverse=True):
        if not kept or quality > kept[-1][1]:
            kept.append((speed, quality))
    return kept[::-1]


def _place(axes: Axes, labels: Sequence[Label]) -> None:
    """Write each label where it covers no other and no marker, the first that fits of eight places; else nowhere.

    The figure must have been laid out.
    """
    figure, panel = axes.get_figure(root=True), axes.get_window_extent()
    assert figure is not None
    half = MARKER * figure.dpi / 72
    points = axes.transData.transform([at for _, at, _ in labels])
    markers = [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in points]
    written: list[Bbox] = []
    for i, (text, at, colour) in enumerate(labels):
        others = [*written, *markers[:i], *markers[i + 1 :]]
        for place in BESIDE + AWAY:
            ha: Literal["left", "right"] = "left" if place[0] > 0 else "right"
            label = axes.annotate(text, at, place, textcoords="offset points", fontsize=FONT, color=colour, ha=ha)
            box = label.get_window_extent()
            if panel.contains(*box.min) and panel.contains(*box.max) and not box.count_overlaps(others):
                written.append(box)
                if place in AWAY:
                    axes.annotate("", at, place, textcoords="offset points", arrowprops=LEADER | {"color": colour})
                break
            label.remove()
