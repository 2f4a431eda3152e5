"""A comparison as one HTML file that loads nothing: the table, the verdicts, and charts drawn as inline SVG."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from io import StringIO
from pathlib import Path

import matplotlib as mpl
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from effir.evaluation.plots import BLUE, GREEN, GREY, ORANGE
from effir.evaluation.variant import Variant
from effir.files import writing
from effir.lab.comparison import Comparison, Difference, query_differences
from effir.lab.table import footnotes, heading, rows, sentences

TEMPLATE = "comparison_page.html.jinja"
INK = "#0b0c0d"  # stands for the page's own text colour
LONGEST, POINTS = 24, 200  # characters of a label, points of a curve
PLOT, LETTER = (265.0, 190.0), 5.8  # size of the plane of _tradeoff, and width of a letter, in points, about
# The page gives each colour a light and a dark value.
_COLOURS = {BLUE: "var(--blue)", ORANGE: "var(--orange)", GREEN: "var(--green)", GREY: "var(--grey)"}
_STYLE = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text: sharp, selectable, in the page's own font
    "svg.hashsalt": "effir",  # equal figures give equal bytes
}


@dataclass(frozen=True)
class Chart:
    """An inline SVG, and what it shows in words; ``paired`` where it shows a difference to the baseline."""

    svg: Markup
    caption: str
    paired: bool = False


def write_page(comparison: Comparison, into: Path) -> None:
    """Write the page, whole or not at all; equal comparisons give equal bytes."""
    with writing(into) as draft:
        draft.write_text(render_page(comparison), encoding="utf-8")


def render_page(comparison: Comparison) -> str:
    """Render the page as HTML text; every name is escaped."""
    source = files("effir").joinpath(TEMPLATE).read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return template.from_string(source).render(
        variants=comparison.variants,
        rows=rows(comparison),
        heading=heading(comparison),
        sentences=sentences(comparison),
        footnotes=footnotes(comparison),
        charts=list(_charts(comparison)),
    )


def _charts(comparison: Comparison) -> Iterator[Chart]:
    for name in comparison.sets:
        seeded = any("seeds" in variant.quality.get(name, {}) for variant in comparison.variants)
        strokes = " Strokes are the lowest and the highest seed." if seeded else ""
        caption = f"{name}: nDCG@10 with 95 % bounds, higher is better. The dashed line is BM25.{strokes}"
        yield Chart(_svg(_quality(comparison, name), f"quality-{name}"), caption)
        if any(_point(variant, name) for variant in comparison.variants):
            caption = f"{name}: nDCG@10 against measured speed. Nothing is better in both than what lies on the line."
            yield Chart(_svg(_tradeoff(comparison, name), f"speed-{name}"), caption)
    tested = [found for found in comparison.differences if found.test is not None]
    each = {(d.variant, d.set): _sorted_differences(comparison, d) for d in tested}
    limit = max([0.1, *(abs(one) for values in each.values() for one in values)])
    for found in tested:
        counts = f"{found.wins} queries better, {found.ties} equal, {found.losses} worse"
        drawn = _gains(each[found.variant, found.set], limit)
        caption = f"{found.variant} on {found.set}: {counts} than {comparison.baseline.name}."
        yield Chart(_svg(drawn, f"queries-{found.set}-{found.variant}"), caption, paired=True)


def _svg(figure: Figure, prefix: str) -> Markup:
    """Save a figure as SVG that takes its colours from the page, and whose ids are its own."""
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
    return Markup(svg.replace("<svg ", '<svg aria-hidden="true" ', 1))  # matplotlib escapes what it writes


def _quality(comparison: Comparison, name: str) -> Figure:
    """Draw nDCG@10 of each variant, the baseline on top, with its bounds and BM25 on the same data."""
    variants = [variant for variant in comparison.variants if name in variant.quality]
    figure, axes = _axes(height=1.1 + 0.34 * len(variants))
    for row, variant in enumerate(variants):
        figures = variant.quality[name]
        middle = figures["ndcg_at_10"]
        low, high = (figures.get(f"ndcg_at_10{end}", middle) for end in ("_low", "_high"))
        colour = GREY if variant is comparison.baseline else BLUE
        axes.errorbar([middle], [row], xerr=[[middle - low], [high - middle]], fmt="o", color=colour, capsize=4, lw=2)
        if "seeds" in figures:
            ends = [figures["ndcg_at_10_lowest"], figures["ndcg_at_10_highest"]]
            axes.plot(ends, [row, row], "|", color=INK, markersize=9, zorder=3)
        if "bm25_ndcg_at_10" in figures:
            axes.vlines(figures["bm25_ndcg_at_10"], row - 0.5, row + 0.5, color=ORANGE, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(variants)), [_short(variant.name) for variant in variants], parse_math=False)
    axes.set_ylim(len(variants) - 0.5, -0.5)
    axes.set_xlabel("nDCG@10")
    return figure


def _tradeoff(comparison: Comparison, name: str) -> Figure:
    """Draw nDCG@10 against the speed-up on documents, with the front that no variant beats in both."""
    points = {variant.name: point for variant in comparison.variants if (point := _point(variant, name))}
    figure, axes = _axes(height=3.4)
    front = sorted(p for p in points.values() if not any(_beats(other, p) for other in points.values()))
    axes.plot([x for x, _ in front], [y for _, y in front], color=GREY, lw=1.2, zorder=1)
    for variant, (x, y) in points.items():
        colour = GREY if variant == comparison.baseline.name else BLUE
        axes.plot([x], [y], marker="o", markersize=7, color=colour, linestyle="none")
    axes.margins(x=0.12, y=0.16)
    axes.set(xlabel="documents a second, times the base model's", ylabel="nDCG@10")
    _label(axes, points)
    return figure


def _point(variant: Variant, name: str) -> tuple[float, float] | None:
    if name not in variant.quality or "document_speedup" not in variant.cost:
        return None
    return variant.cost["document_speedup"], variant.quality[name]["ndcg_at_10"]


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] >= other[0] and one[1] >= other[1]


def _label(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write each name beside its point, in the first place where it covers no other name and no point."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    wide, high = PLOT
    at = {n: ((x - left) / (right - left) * wide, (y - bottom) / (top - bottom) * high) for n, (x, y) in points.items()}
    taken = [_box(x, y, 10) for x, y in at.values()]
    for name, (x, y) in at.items():
        reach = 9 + LETTER * len(_short(name)) / 2
        places = [(dx, dy) for dy in (6, -6, 13, -13, 24, -24, 35, -35) for dx in (reach, -reach, 0)]
        boxes = [(place, _box(x + place[0], y + place[1], 2 * reach - 18)) for place in places]
        free = [(place, box) for place, box in boxes if not _covers(box, taken) and 0 <= box[0] and box[1] <= wide]
        (dx, dy), box = (free or boxes)[0]
        taken.append(box)
        axes.annotate(
            _short(name),
            points[name],
            xytext=(dx, dy),
            textcoords="offset points",
            ha="center",
            va="center",
            color=INK,
            parse_math=False,
        )


def _box(x: float, y: float, width: float) -> tuple[float, float, float, float]:
    """Return left, right, bottom and top of a line of text around (x, y), in points."""
    return x - width / 2, x + width / 2, y - 5, y + 5


def _covers(box: tuple[float, float, float, float], taken: Iterable[tuple[float, float, float, float]]) -> bool:
    return any(box[0] < o[1] and o[0] < box[1] and box[2] < o[3] and o[2] < box[3] for o in taken)


def _sorted_differences(comparison: Comparison, found: Difference) -> list[float]:
    variant = next(one for one in comparison.variants if one.name == found.variant)
    return query_differences(variant, comparison.baseline, found.set)


def _gains(each: Sequence[float], limit: float) -> Figure:
    """Draw the differences of all queries to the baseline, the largest gain on the left, up to ``limit``."""
    count = min(POINTS, len(each))
    ranks = [round(i * (len(each) - 1) / max(1, count - 1)) for i in range(count)]
    figure, axes = _axes(height=2.4)
    for colour, sign in ((GREEN, 1), (ORANGE, -1)):
        side = [rank for rank in ranks if sign * each[rank] > 0]
        axes.fill_between(side, [each[rank] for rank in side], color=colour, step="mid", linewidth=0.5)
    axes.axhline(0, color=INK, lw=0.8)
    axes.set(xlim=(-0.5, len(each) - 0.5), ylim=(-1.05 * limit, 1.05 * limit))
    axes.set(xlabel=f"{len(each)} queries, by difference", ylabel="nDCG@10, difference")
    return figure


def _axes(height: float) -> tuple[Figure, Axes]:
    """Open a chart as wide as a phone can show with its text readable."""
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
