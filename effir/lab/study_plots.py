"""What a study shows: the quality of its runs, quality by size, and which layers were cut."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from effir.evaluation.variant import Variant

# Okabe and Ito's palette, which the colour-blind can tell apart, and a marker for each colour.
STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"))
MORE_STYLES = tuple(
    (colour, marker)
    for (colour, _), marker in zip(STYLES[1:] + STYLES[:1], ("X", "<", ">", "p", "h", "d"), strict=True)
)
"""The same colours with other markers, for a picture of more things than STYLES has."""
GREY = "#666666"
BM25 = "bm25_ndcg_at_10"
SPAN = 0.2
"""nDCG@10 that a panel shows at least: a small difference looks small."""
SHORT = {"block": ("b", 0.0), "attention": ("a", -0.2), "mlp": ("m", 0.2)}
"""A sublayer's letter, and how far below the middle of its row it stands: one layer may lose both."""

mpl.use("Agg")


def picture(question: str, variants: Sequence[Variant], baseline: str) -> Figure:
    """Draw nDCG@10 with its bounds, a row a run and a panel a set; of several seeds the lowest and highest are strokes.

    Runs whose names begin alike (``mlp-15``, ``mlp-15-mean``) have one colour. The ``baseline`` and BM25 are levels.
    """
    sets = list(dict.fromkeys(name for variant in variants for name in variant.quality))
    styles = dict(zip(dict.fromkeys(family(v.name) for v in variants), cycle(STYLES), strict=False))
    figure = Figure(figsize=(2.5 + 4 * len(sets), 1.8 + 0.26 * len(variants)), layout="constrained")
    panels = figure.subplots(1, len(sets), squeeze=False, sharey=True)[0]
    for axes, name in zip(panels, sets, strict=True):
        for row, variant in enumerate(variants):
            if name in variant.quality:
                _interval(axes, row, variant.quality[name], styles[family(variant.name)])
        figures = {v.name: v.quality[name] for v in variants if name in v.quality}
        if baseline in figures:
            _level(axes, figures[baseline]["ndcg_at_10"], ":", baseline)
        for level in {each[BM25] for each in figures.values() if BM25 in each}:
            _level(axes, level, "--", "BM25")
        axes.set(xlabel="nDCG@10, 95 % bounds over queries", title=name)
        tidy(axes)
    known = {label: drawn for axes in panels for drawn, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(known.values(), known.keys(), fontsize=8, loc="outside lower center", ncols=3, frameon=False)
    panels[0].set_yticks(range(len(variants)), [f"{v.name}, {v.cost['kept_share']:.1%}" for v in variants])
    panels[0].invert_yaxis()
    figure.suptitle(f"{question}\nruns, and the share of the parameters that each keeps", fontsize=10)
    return figure


def family(name: str) -> str:
    """Tell which runs belong together.

    >>> family("mlp-15-mean"), family("full")
    ('mlp', 'full')
    """
    return name.partition("-")[0]


def _interval(axes: Axes, row: int, figures: Mapping[str, float], style: tuple[str, str]) -> None:
    value, colour, marker = figures["ndcg_at_10"], *style
    bounds = [[value - figures["ndcg_at_10_low"]], [figures["ndcg_at_10_high"] - value]]
    axes.errorbar(value, row, xerr=bounds, color=colour, marker=marker, capsize=3)
    if "seeds" in figures:
        ends = [figures["ndcg_at_10_lowest"], figures["ndcg_at_10_highest"]]
        axes.plot(ends, [row, row], "|", color="black", markersize=9, label="lowest and highest seed")


def _level(axes: Axes, value: float, line: str, label: str) -> None:
    axes.axvline(value, color=GREY, linestyle=line, linewidth=1, zorder=0, label=label)


def curves(question: str, variants: Sequence[Variant]) -> Figure | None:
    """Draw nDCG@10 over the parameters kept, a panel a set; runs named ``<way>-<number>`` make one curve.

    A curve begins at the study's first run, where that is larger than all of its own. The axis begins at 0 where a run
    is below half of the best. None where no way has two runs.
    """
    first, ways = variants[0], _ways(variants)
    if all(len(members) == 1 for members in ways.values()):
        return None
    for members in ways.values():
        if all(first.cost["kept_share"] > v.cost["kept_share"] for v in members):
            members.append(first)
    sets = list(dict.fromkeys(name for variant in variants for name in variant.quality))
    figure = Figure(figsize=(1.5 + 4.5 * len(sets), 4.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets, strict=True):
        for (way, members), (colour, marker) in zip(ways.items(), cycle(STYLES), strict=False):
            there = [v for v in members if name in v.quality]
            figures = [v.quality[name] for v in there]
            y = [f["ndcg_at_10"] for f in figures]
            below = [f["ndcg_at_10"] - f["ndcg_at_10_low"] for f in figures]
            above = [f["ndcg_at_10_high"] - f["ndcg_at_10"] for f in figures]
            x = [100 * v.cost["kept_share"] for v in there]
            axes.errorbar(x, y, [below, above], color=colour, marker=marker, capsize=3, label=way)
        axes.set(xlabel="parameters beside the embeddings, % of full size", ylabel="nDCG@10", title=name)
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, high - SPAN) if low > high / 2 else 0, high)
        tidy(axes)
        axes.legend(fontsize=8)
    figure.suptitle(question)
    return figure


def _ways(variants: Sequence[Variant]) -> dict[str, list[Variant]]:
    found: dict[str, list[Variant]] = {}
    for variant in variants:
        way, _, number = variant.name.rpartition("-")
        if number.isdigit():
            found.setdefault(way, []).append(variant)
    return {way: sorted(members, key=lambda v: v.cost["kept_share"]) for way, members in found.items()}


def layers_picture(variants: Sequence[Variant]) -> Figure | None:
    """Draw by layer when sublayers were dropped, 1 first, and the widths that are left; None where nothing was cut.

    Runs that were cut alike share a row.
    A width is over the largest among the runs of the same base model; a layer that a model does not have is left blank.
    """
    known = [v for v in variants if v.layers.get("dropped") or len(set(v.layers.get("widths", ()))) > 1]
    if not known:
        return None
    alike: dict[str, list[Variant]] = {}
    for variant in known:
        alike.setdefault(repr(variant.layers), []).append(variant)
    known = [members[0] for members in alike.values()]
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
    left.set_yticks(range(len(known)), [_listed([v.name for v in members]) for members in alike.values()])
    return figure


def _listed(names: Sequence[str]) -> str:
    """Write names below each other, two a line."""
    return ",\n".join(", ".join(names[i : i + 2]) for i in range(0, len(names), 2))


def tidy(axes: Axes) -> None:
    """Draw a faint grid, and no frame where nothing is read off."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
