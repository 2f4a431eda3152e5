"""What studies show: quality by size, quality by speed, and which layers were cut."""

from collections.abc import Mapping, Sequence
from itertools import chain, cycle
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from effir.comparison import Variant

# Okabe and Ito's palette, which the colour-blind can tell apart, and a marker for each colour.
STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"))
GREY = "#666666"
SHORT = {"block": ("b", 0.0), "attention": ("a", -0.2), "mlp": ("m", 0.2)}
"""A sublayer's letter, and how far below the middle of its row it stands: one layer may lose both."""
SPAN = 0.2
"""nDCG@10 that a panel shows at least: a small difference looks small."""

FONT, MARKER = 7.0, 3.0
"""Size of a label beside a point, and half the width of the point's marker, in points of type."""
PLACES = ((5.0, 3.0), (-5.0, 3.0), (5.0, -10.0), (-5.0, -10.0), (8.0, 12.0), (-8.0, 12.0), (8.0, -19.0), (-8.0, -19.0))
"""Where a label may begin (or, to the left, end), in points of type from its point."""

Label = tuple[str, tuple[float, float], str]
"""A text, the point that is meant, in data, and a colour."""

mpl.use("Agg")


def picture(question: str, variants: Sequence[Variant]) -> Figure:
    """Draw nDCG@10 over the parameters kept, a panel a set; runs named ``<way>-<number>`` make one curve."""
    sets = list(variants[0].quality)
    figure = Figure(figsize=(1.5 + 4.5 * len(sets), 4.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets, strict=True):
        for (way, members), (colour, marker) in zip(
            _ways([v for v in variants if name in v.quality]).items(), cycle(STYLES), strict=False
        ):
            figures = [v.quality[name] for v in members]
            y = [f["ndcg_at_10"] for f in figures]
            below = [f["ndcg_at_10"] - f["ndcg_at_10_low"] for f in figures]
            above = [f["ndcg_at_10_high"] - f["ndcg_at_10"] for f in figures]
            x = [100 * v.cost["kept_share"] for v in members]
            axes.errorbar(x, y, [below, above], color=colour, marker=marker, capsize=3, label=way)
        axes.set(xlabel="parameters beside the embeddings, % of full size", ylabel="nDCG@10", title=name)
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
        _tidy(axes)
    figure.suptitle(question)
    return figure


def _ways(variants: Sequence[Variant]) -> dict[str, list[Variant]]:
    found: dict[str, list[Variant]] = {}
    for variant in variants:
        way, _, number = variant.name.rpartition("-")
        found.setdefault(way if number.isdigit() else variant.name, []).append(variant)
    return {way: sorted(members, key=lambda v: v.cost["kept_share"]) for way, members in found.items()}


def pareto(studies: Mapping[str, Sequence[Variant]], outsiders: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw nDCG@10 over the measured speed of documents, all runs of all studies, a panel a set; the front is a line.

    Speed is over the full-size model in the same runtime. BM25 encodes nothing: a level. ``outsiders`` are rows of
    `benchmarks.outsiders`.
    """
    sets = list(dict.fromkeys(name for variants in studies.values() for v in variants for name in v.quality))
    styles = dict(zip(studies, cycle(STYLES), strict=False))  # a study looks alike in every panel
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
            labels.append((row["name"], at, "black"))
        axes.set(xlabel="documents a second, times the full-size model", ylabel="nDCG@10", title=name)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.margins(x=0.15, y=0.2)
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, high - SPAN), high)
        _tidy(axes)
        labelled.append((axes, labels))
    for axes in panels:  # the last row may have one too many
        axes.remove()
    figure.suptitle("Quality against measured encoding speed")
    figure.draw_without_rendering()  # before, it is not known where anything stands
    for axes, labels in labelled:
        _place(axes, labels)
    return figure


def _by_speed(
    axes: Axes, name: str, studies: Mapping[str, Sequence[Variant]], styles: Mapping[str, tuple[str, str]]
) -> list[Label]:
    """Draw a panel's points, front and level; returns what is to be written beside the points."""
    points, labels = list[tuple[float, float]](), list[Label]()
    for study, variants in studies.items():
        colour, marker = styles[study]
        found = [(v.cost["document_speedup"], v.quality[name]["ndcg_at_10"]) for v in variants]
        points += found
        axes.plot(*zip(*found, strict=True), marker, color=colour, label=study)
        labels += [(variant.name, at, colour) for variant, at in zip(variants, found, strict=True)]
    axes.plot(*zip(*front(points), strict=True), color=GREY, linewidth=1, zorder=0, label="best at its speed")
    key = "bm25_ndcg_at_10"
    for level in {v.quality[name][key] for v in chain(*studies.values()) if key in v.quality[name]}:
        axes.axhline(level, color=GREY, linestyle="--", label="BM25")
    return labels


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


def layers_picture(variants: Sequence[Variant]) -> Figure | None:
    """Draw by layer when sublayers were dropped, 1 first, and the widths that are left; None where nothing was cut.

    A width is over the largest among the runs of the same base model; a layer that a model does not have is left blank.
    """
    known = [v for v in variants if v.layers.get("dropped") or len(set(v.layers.get("widths", ()))) > 1]
    if not known:
        return None
    full: dict[object, int] = {}
    for variant in variants:
        base, there = variant.params.get("model.base"), variant.layers.get("widths", ())
        full[base] = max(full.get(base, 1), *there, 1)
    widths = np.full((len(known), max(len(v.layers["widths"]) for v in known)), np.nan)
    for row, variant in enumerate(known):
        there = variant.layers["widths"]
        widths[row, : len(there)] = np.divide(there, full[variant.params.get("model.base")])
    figure = Figure(figsize=(2.5 + 0.24 * widths.shape[1] * 2, 2.2 + 0.34 * len(known)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    ranks = np.full(widths.shape, np.nan)
    for row, variant in enumerate(known):
        for rank, (sublayer, layer) in enumerate(variant.layers["dropped"], start=1):
            ranks[row, layer] = rank
            letter, below = SHORT[sublayer]
            left.text(layer, row + below, f"{rank}{letter}", ha="center", va="center", fontsize=6.5, color="white")
    left.imshow(ranks, cmap="cividis", aspect="auto", vmax=np.nanmax(ranks, initial=1) * 1.4)
    drawn = right.imshow(widths, cmap="cividis", aspect="auto", vmin=0, vmax=1)
    figure.colorbar(drawn, ax=right, label="share kept")
    left.set(title="order of drops: b block, m MLP, a attention", xlabel="layer")
    right.set(title="width of each MLP that is left", xlabel="layer")
    left.set_yticks(range(len(known)), [v.name for v in known])
    return figure


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
        for place in PLACES:
            ha: Literal["left", "right"] = "left" if place[0] > 0 else "right"
            label = axes.annotate(text, at, place, textcoords="offset points", fontsize=FONT, color=colour, ha=ha)
            box = label.get_window_extent()
            if panel.contains(*box.min) and panel.contains(*box.max) and not box.count_overlaps(others):
                written.append(box)
                break
            label.remove()


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8)
