"""Plot quality against measured speed: all runs of all studies, BM25, and small encoders."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWN
from matplotlib.text import Text

from effir.evaluation.variant import Variant
from effir.lab.study_plots import BM25, GREY, MORE_STYLES, SPAN, STYLES, sets_of, tidy

FLOOR = 0.55
"""Share of a panel's best nDCG@10. Runs below it are carets at the foot, with their nDCG@10, to keep the scale."""

Point = tuple[float, float]
Studies = Mapping[str, Sequence[Variant]]
Encoders = Sequence[Mapping[str, Any]]


def pareto(studies: Studies, encoders: Encoders) -> Figure | None:
    """Plot nDCG@10 over the measured speed of documents: a panel a set, a marker a study, a line for the Pareto front.

    Speed is relative to the uncompressed model in the same runtime. Runs that were timed once (``cost.rounds: 1``) are
    left out; None if there is no other. ``encoders`` are rows of `benchmarks.small_encoders`, of which those that effir
    did not cut are drawn, in PyTorch.
    """
    found = {study: [v for v in variants if _is_timed(v)] for study, variants in studies.items()}
    timed = {study: variants for study, variants in found.items() if variants}
    sets = sets_of(v for variants in timed.values() for v in variants)
    if not sets:
        return None
    styles = dict(zip(timed, cycle(STYLES + MORE_STYLES), strict=False))  # a study looks the same in every panel
    columns = min(2, len(sets))
    rows = -(-len(sets) // columns)
    figure = Figure(figsize=(1.5 + 5 * columns, 4.5 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    labels = {axes: _panel(axes, name, timed, styles, encoders) for axes, name in zip(panels, sets, strict=False)}
    for axes in panels:  # the last row may have one too many
        axes.remove()
    figure.suptitle("Quality against measured encoding speed; names mark the Pareto front, carets runs far below")
    figure.draw_without_rendering()  # the layout decides where labels have room
    figure.set_layout_engine("none")
    for axes, texts in labels.items():
        place(axes, texts)
    return figure


def place(axes: Axes, texts: Sequence[Text], colour: str = GREY, expand: Point = (1.3, 1.9)) -> None:
    """Move labels apart, with a line to the point of each; the number of iterations is fixed, so bytes are equal.

    ``expand`` is the room around a label, in its widths and heights. The figure must have been laid out.
    """
    arrow = {"arrowstyle": "-", "color": colour, "linewidth": 0.5}
    lines = [line for line in axes.lines if line.get_transform() == axes.transData]
    xs, ys = np.concatenate([np.asarray(line.get_xydata()) for line in lines]).T
    adjust_text(list(texts), x=xs, y=ys, ax=axes, iter_lim=1000, force_text=(0.4, 0.6), expand=expand, arrowprops=arrow)


def _panel(
    axes: Axes, name: str, studies: Studies, styles: Mapping[str, tuple[str, str]], encoders: Encoders
) -> list[Text]:
    """Draw the points, the front and the levels of one set; return the labels."""
    found = {
        study: {v.name: (v.cost["document_speedup"], v.quality[name]["ndcg_at_10"]) for v in all_ if name in v.quality}
        for study, all_ in studies.items()
    }
    best = front([point for runs in found.values() for point in runs.values()])
    foot, labels = FLOOR * best[0][1], list[Text]()
    for study, runs in found.items():
        colour, marker = styles[study]
        high, low = ([x for x in runs.values() if (x[1] < foot) is below] for below in (False, True))
        if runs:
            axes.plot([x for x, _ in high], [y for _, y in high], marker, color=colour, label=study)
        axes.plot([x for x, _ in low], [foot] * len(low), color=colour, linestyle="none", marker=CARETDOWN, label="_")
        named = {run: point for run, point in runs.items() if point in best and point in high}
        named |= {f"{run} {y:.2f}": (x, foot) for run, (x, y) in runs.items() if y < foot}
        labels += [axes.text(*point, run, fontsize=7, color=colour) for run, point in named.items()]
    shown = [point for point in best if point[1] >= foot]
    axes.plot(*zip(*shown, strict=True), color=GREY, linewidth=1, zorder=0, label="best at its speed")
    quality = [v.quality[name] for variants in studies.values() for v in variants if name in v.quality]
    for level in {metrics[BM25] for metrics in quality if BM25 in metrics}:
        axes.axhline(level, color=GREY, linestyle="--", label="BM25")
    small = [row for row in encoders if row["engine"] == "torch" and not row["ours"]]
    for row in (row for row in small if name in row["quality"]):
        at = (row["document_speedup"]["median"], row["quality"][name]["ndcg_at_10"])
        axes.plot(*at, "*", color="black", markersize=12, label="_")
        labels.append(axes.text(*at, row["name"], fontsize=7, color="black"))
    axes.set(xlabel="documents a second, relative to the uncompressed model", ylabel="nDCG@10", title=name)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.18, y=0.2)
    low_end, high_end = axes.get_ylim()
    axes.set_ylim(min(low_end, high_end - SPAN), high_end)
    tidy(axes)
    axes.legend(fontsize=8)
    return labels


def _is_timed(variant: Variant) -> bool:
    """Tell whether the speed is of several rounds: of one round, the lowest and the highest are equal."""
    ends = [variant.cost.get(f"document_speedup_{end}") for end in ("low", "high")]
    return None in ends or ends[0] != ends[1]


def front(points: Sequence[Point]) -> list[Point]:
    """Return the Pareto front of points (speed, quality), the slowest first.

    >>> front([(1.0, 0.7), (2.0, 0.6), (1.5, 0.5), (3.0, 0.2)])
    [(1.0, 0.7), (2.0, 0.6), (3.0, 0.2)]
    """
    kept: list[Point] = []
    for speed, quality in sorted(points, reverse=True):
        if not kept or quality > kept[-1][1]:
            kept.append((speed, quality))
    return kept[::-1]
