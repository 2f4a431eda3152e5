"""Plots of one study: nDCG@10 of each run, nDCG@10 by size, and which layers were cut."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from effir.evaluation.variant import Variant

# Okabe and Ito's palette, safe for colour-blind readers, and a marker for each colour.
STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"))
MORE_STYLES = tuple((style[0], marker) for style, marker in zip(STYLES[1:] + STYLES[:1], "X<>phd", strict=True))
"""The same colours with other markers, for plots of more series than STYLES has."""
GREY = "#666666"
BM25 = "bm25_ndcg_at_10"
SPAN = 0.2
"""Least range of nDCG@10 in a panel, so that a small difference looks small."""
SHORT = {"block": ("b", 0.0), "attention": ("a", -0.2), "mlp": ("m", 0.2)}
"""Letter of a sublayer, and its offset from the middle of the row: one layer may lose both."""

mpl.use("Agg")


def sets_of(variants: Iterable[Variant]) -> list[str]:
    """List the evaluation sets of several variants."""
    return list(dict.fromkeys(name for variant in variants for name in variant.quality))


def intervals(question: str, variants: Sequence[Variant], baseline: str) -> Figure:
    """Draw nDCG@10 with its 95 % interval, a row a run and a panel a set; strokes are the lowest and highest seed.

    Runs with the same first word (``mlp-15``, ``mlp-15-mean``) have one colour. Lines mark the ``baseline`` and BM25.
    """
    sets = sets_of(variants)
    styles = dict(zip(dict.fromkeys(family(v.name) for v in variants), cycle(STYLES), strict=False))
    figure = Figure(figsize=(2.5 + 4 * len(sets), 1.8 + 0.26 * len(variants)), layout="constrained")
    panels = figure.subplots(1, len(sets), squeeze=False, sharey=True)[0]
    for axes, name in zip(panels, sets, strict=True):
        for row, variant in enumerate(variants):
            if name in variant.quality:
                _interval(axes, row, variant.quality[name], styles[family(variant.name)])
        metrics = {v.name: v.quality[name] for v in variants if name in v.quality}
        levels = [(metrics[baseline]["ndcg_at_10"], ":", baseline)] if baseline in metrics else []
        levels += [(each[BM25], "--", "BM25") for each in metrics.values() if BM25 in each]
        for level, line, label in dict.fromkeys(levels):
            axes.axvline(level, color=GREY, linestyle=line, linewidth=1, zorder=0, label=label)
        axes.set(xlabel="nDCG@10, 95 % interval over queries", title=name)
        tidy(axes)
    known = {label: drawn for axes in panels for drawn, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(known.values(), known.keys(), fontsize=8, loc="outside lower center", ncols=3, frameon=False)
    panels[0].set_yticks(range(len(variants)), [f"{v.name}, {v.cost['kept_share']:.1%}" for v in variants])
    panels[0].invert_yaxis()
    figure.suptitle(f"{question}\nruns, and the share of non-embedding parameters that each keeps", fontsize=10)
    return figure


def family(name: str) -> str:
    """Return the first word of a run's name: ``mlp`` of ``mlp-15-mean``."""
    return name.partition("-")[0]


def _interval(axes: Axes, row: int, metrics: Mapping[str, float], style: tuple[str, str]) -> None:
    value, colour, marker = metrics["ndcg_at_10"], *style
    bounds = [[value - metrics["ndcg_at_10_low"]], [metrics["ndcg_at_10_high"] - value]]
    axes.errorbar(value, row, xerr=bounds, color=colour, marker=marker, capsize=3)
    if "seeds" in metrics:
        ends = [metrics["ndcg_at_10_lowest"], metrics["ndcg_at_10_highest"]]
        axes.plot(ends, [row, row], "|", color="black", markersize=9, label="lowest and highest seed")


def curves(question: str, variants: Sequence[Variant]) -> Figure | None:
    """Draw nDCG@10 over the parameters kept, a panel a set; runs named ``<method>-<number>`` make one curve.

    A curve starts at the study's first run if that is larger than all runs of the curve. The axis starts at 0 if a run
    is below half of the best. None if no method has two runs.
    """
    first, methods = variants[0], _methods(variants)
    if all(len(members) == 1 for members in methods.values()):
        return None
    for members in methods.values():
        if all(first.cost["kept_share"] > v.cost["kept_share"] for v in members):
            members.append(first)
    sets = sets_of(variants)
    figure = Figure(figsize=(1.5 + 4.5 * len(sets), 4.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets, strict=True):
        for (method, members), (colour, marker) in zip(methods.items(), cycle(STYLES), strict=False):
            there = [v for v in members if name in v.quality]
            ends = [[v.quality[name][f"ndcg_at_10{end}"] for v in there] for end in ("_low", "", "_high")]
            low, y, high = map(np.asarray, ends)
            x = [100 * v.cost["kept_share"] for v in there]
            axes.errorbar(x, y, [y - low, high - y], color=colour, marker=marker, capsize=3, label=method)
        axes.set(xlabel="non-embedding parameters, % of the uncompressed model", ylabel="nDCG@10", title=name)
        bottom, top = axes.get_ylim()
        axes.set_ylim(min(bottom, top - SPAN) if bottom > top / 2 else 0, top)
        tidy(axes)
        axes.legend(fontsize=8)
    figure.suptitle(question)
    return figure


def _methods(variants: Sequence[Variant]) -> dict[str, list[Variant]]:
    found: dict[str, list[Variant]] = {}
    for variant in variants:
        method, _, number = variant.name.rpartition("-")
        if number.isdigit():
            found.setdefault(method, []).append(variant)
    return {method: sorted(members, key=lambda v: v.cost["kept_share"]) for method, members in found.items()}


def cut_layers(variants: Sequence[Variant]) -> Figure | None:
    """Draw by layer the order in which sublayers were dropped, from 1, and the widths; None if nothing was cut.

    Runs with equal cuts share a row. A width is relative to the largest among the runs of the same base model; layers
    that a model does not have are blank.
    """
    cut = [v for v in variants if v.layers.get("dropped") or len(set(v.layers.get("widths", ()))) > 1]
    if not cut:
        return None
    equal: dict[str, list[Variant]] = {}
    for variant in cut:
        equal.setdefault(repr(variant.layers), []).append(variant)
    rows = [members[0] for members in equal.values()]
    names = [[v.name for v in members] for members in equal.values()]
    two_a_line = [",\n".join(", ".join(each[i : i + 2]) for i in range(0, len(each), 2)) for each in names]
    widths = _relative_widths(rows, variants)
    figure = Figure(figsize=(2.5 + 0.24 * widths.shape[1] * 2, 2.2 + 0.34 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    ranks = np.full(widths.shape, np.nan)
    for row, variant in enumerate(rows):
        for rank, (sublayer, layer) in enumerate(variant.layers["dropped"], start=1):
            ranks[row, layer] = rank
            letter, below = SHORT[sublayer]
            left.text(layer, row + below, f"{rank}{letter}", ha="center", va="center", fontsize=6.5, color="white")
    left.imshow(ranks, cmap="cividis", aspect="auto", vmax=np.nanmax(ranks, initial=1) * 1.4)
    drawn = right.imshow(widths, cmap="cividis", aspect="auto", vmin=0, vmax=1)
    figure.colorbar(drawn, ax=right, label="share of the channels kept")
    left.set(title="order of drops: b block, m MLP, a attention", xlabel="layer")
    right.set(title="width of each MLP", xlabel="layer")
    left.set_yticks(range(len(rows)), two_a_line)
    return figure


def _relative_widths(rows: Sequence[Variant], variants: Sequence[Variant]) -> NDArray[np.float64]:
    """Return (rows, layers) widths, each relative to the largest of the same base model; NaN beyond a model's depth."""
    full: dict[object, int] = {}
    for variant in variants:
        base = variant.params.get("model.base")
        full[base] = max(full.get(base, 1), *variant.layers.get("widths", ()), 1)
    found = np.full((len(rows), max(len(v.layers["widths"]) for v in rows)), np.nan)
    for row, variant in enumerate(rows):
        own = variant.layers["widths"]
        found[row, : len(own)] = np.divide(own, full[variant.params.get("model.base")])
    return found


def tidy(axes: Axes) -> None:
    """Draw a faint grid, and no frame at the top and the right."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
