"""Write a comparison as one HTML file that loads nothing: the table, the findings, and charts as inline SVG."""

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from effir.evaluation.baselines import baselines_in, title
from effir.evaluation.plots import BLUE, GREEN, GREY, ORANGE
from effir.files import writing
from effir.lab.comparison import Comparison, query_differences
from effir.lab.pareto_plot import Point, front, place
from effir.lab.table import footnotes, heading, rows, sentences

TEMPLATE = "page.html.jinja"
INK = "#0b0c0d"  # stands for the page's own text colour
LINES = {"dashed": (0, (4, 3)), "dotted": (0, (1, 2)), "dash-dotted": (0, (5, 2, 1, 2)), "long-dashed": (0, (9, 3))}
LONGEST, POINTS = 24, 200  # characters of a label, points of a curve
# CSS variables of the page, each with a light and a dark value.
_COLOURS = {BLUE: "var(--blue)", ORANGE: "var(--orange)", GREEN: "var(--green)", GREY: "var(--grey)"}
_STYLE = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text: sharp, selectable, in the page's own font
    "svg.hashsalt": "effir",  # equal metrics give equal bytes
}


class Chart(NamedTuple):
    """An inline SVG and its caption; ``paired`` if it shows a difference to the baseline."""

    svg: Markup
    caption: str
    paired: bool = False


def write_page(comparison: Comparison, into: Path, advice: Sequence[str] = ()) -> None:
    """Write the page atomically; equal comparisons give equal bytes."""
    with writing(into) as draft:
        draft.write_text(render_page(comparison, advice), encoding="utf-8")


def render_page(comparison: Comparison, advice: Sequence[str] = ()) -> str:
    """Render the page as HTML text with escaped names."""
    source = files("effir.lab").joinpath(TEMPLATE).read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return template.from_string(source).render(
        variants=comparison.variants,
        rows=rows(comparison),
        heading=heading(comparison),
        sentences=sentences(comparison),
        advice=advice,
        footnotes=footnotes(comparison),
        charts=list(_charts(comparison)),
    )


def _charts(comparison: Comparison) -> Iterator[Chart]:
    for name in comparison.sets:
        seeded = any("seeds" in variant.quality.get(name, {}) for variant in comparison.variants)
        strokes = " Strokes mark the lowest and the highest seed." if seeded else ""
        lines = ", ".join(
            f"{title(each)} {line}" for each, line in zip(_baselines(comparison, name), LINES, strict=False)
        )
        drawn = f" Lines: {lines}." if lines else ""
        caption = f"{name}: nDCG@10 with 95 % intervals, higher is better.{drawn}{strokes}"
        yield Chart(_svg(_quality(comparison, name), f"quality-{name}"), caption)
        if points := _points(comparison, name):
            caption = f"{name}: nDCG@10 against measured speed, and the Pareto front: nothing beats it in both."
            yield Chart(_svg(_tradeoff(points, comparison), f"speed-{name}"), caption)
    named, base = {variant.name: variant for variant in comparison.variants}, comparison.baseline
    tested = [found for found in comparison.differences if found.test is not None]
    each = [query_differences(named[found.variant], base, found.set) for found in tested]
    limit = max([0.1, *(abs(one) for values in each for one in values)])
    for found, values in zip(tested, each, strict=True):
        counts = f"{found.wins} queries better, {found.ties} equal, {found.losses} worse"
        caption = f"{found.variant} on {found.set}: {counts} than {base.name}."
        yield Chart(_svg(_gains(values, limit), f"queries-{found.set}-{found.variant}"), caption, paired=True)


def _svg(figure: Figure, prefix: str) -> Markup:
    """Save a figure as SVG with the colours of the page, and ids that start with ``prefix``."""
    text = StringIO()
    with mpl.rc_context(_STYLE):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", facecolor="none", metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    for colour, variable in _COLOURS.items():
        svg = svg.replace(colour.lower(), variable)
    own = re.sub(r"[^\w-]", lambda found: f"_{ord(found[0]):x}", prefix)
    svg = re.sub(r'(\bid="|href="#|url\(#)', lambda found: f"{found[0]}{own}-", svg)
    return Markup(svg.replace("<svg ", '<svg aria-hidden="true" ', 1))  # matplotlib escapes text


def _quality(comparison: Comparison, name: str) -> Figure:
    """Draw nDCG@10 of each variant with its interval, the first on top, and BM25 and encoders on the same data."""
    variants = [variant for variant in comparison.variants if name in variant.quality]
    figure, axes = _axes(height=1.1 + 0.34 * len(variants))
    for row, variant in enumerate(variants):
        metrics = variant.quality[name]
        middle = metrics["ndcg_at_10"]
        low, high = (metrics.get(f"ndcg_at_10{end}", middle) for end in ("_low", "_high"))
        colour = GREY if variant is comparison.baseline else BLUE
        axes.errorbar([middle], [row], xerr=[[middle - low], [high - middle]], fmt="o", color=colour, capsize=4, lw=2)
        if "seeds" in metrics:
            ends = [metrics["ndcg_at_10_lowest"], metrics["ndcg_at_10_highest"]]
            axes.plot(ends, [row, row], "|", color=INK, markersize=9, zorder=3)
        for one, line in zip(_baselines(comparison, name), LINES.values(), strict=False):
            if (at := metrics.get(f"{one}_ndcg_at_10")) is not None:
                axes.vlines(at, row - 0.5, row + 0.5, color=ORANGE, linestyle=line)
    axes.set_yticks(range(len(variants)), [_short(variant.name) for variant in variants], parse_math=False)
    axes.set_ylim(len(variants) - 0.5, -0.5)
    axes.set_xlabel("nDCG@10")
    return figure


def _baselines(comparison: Comparison, name: str) -> list[str]:
    return baselines_in(*(variant.quality.get(name, {}) for variant in comparison.variants))


def _points(comparison: Comparison, name: str) -> dict[str, Point]:
    """Return speed-up and nDCG@10 of the variants, and of the encoders that were timed beside the first of them."""
    found, others = dict[str, Point](), dict[str, Point]()
    for variant in comparison.variants:
        cost, metrics = variant.cost, variant.quality.get(name, {})
        for one in baselines_in(metrics):
            if f"{one}_document_speedup" in cost:
                others.setdefault(one, (cost[f"{one}_document_speedup"], metrics[f"{one}_ndcg_at_10"]))
        if metrics and "document_speedup" in cost:
            found[variant.name] = cost["document_speedup"], metrics["ndcg_at_10"]
    return others | found


def _tradeoff(points: Mapping[str, Point], comparison: Comparison) -> Figure:
    """Draw nDCG@10 against the speed-up on documents, with the Pareto front."""
    colours = {variant.name: BLUE for variant in comparison.variants} | {comparison.baseline.name: GREY}
    figure, axes = _axes(height=3.4)
    best = front(list(points.values()))
    axes.plot([x for x, _ in best], [y for _, y in best], color=GREY, lw=1.2, zorder=1)
    for variant, (x, y) in points.items():
        axes.plot([x], [y], marker="o", markersize=7, color=colours.get(variant, ORANGE), linestyle="none")
    axes.margins(x=0.12, y=0.16)
    axes.set(xlabel="documents a second, relative to the base model", ylabel="nDCG@10")
    figure.draw_without_rendering()
    labels = [axes.text(*at, _short(one), color=INK, parse_math=False) for one, at in points.items()]
    place(axes, labels, GREY, expand=(1.1, 1.3))
    return figure


def _gains(each: Sequence[float], limit: float) -> Figure:
    """Draw the difference of each query to the baseline, the largest gain on the left."""
    count = min(POINTS, len(each))
    ranks = [round(i * (len(each) - 1) / max(1, count - 1)) for i in range(count)]
    figure, axes = _axes(height=2.4)
    for colour, sign in ((GREEN, 1), (ORANGE, -1)):
        side = [rank for rank in ranks if sign * each[rank] > 0]
        axes.fill_between(side, [each[rank] for rank in side], color=colour, step="mid", linewidth=0.5)
    axes.axhline(0, color=INK, lw=0.8)
    axes.set(xlim=(-0.5, len(each) - 0.5), ylim=(-1.05 * limit, 1.05 * limit))
    axes.set(xlabel=f"{len(each)} queries, by difference", ylabel="difference of nDCG@10")
    return figure


def _axes(height: float) -> tuple[Figure, Axes]:
    """Make a chart whose text is readable at the width of a phone."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.6, height), layout="constrained")
        axes: Axes = figure.subplots()
    axes.patch.set_visible(False)
    axes.grid(alpha=0.35, color=GREY)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
