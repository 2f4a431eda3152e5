"""A study's table and picture, from its JSON alone."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from effir.comparison import Comparison, Variant, compare
from effir.files import read_json, writing

# Okabe and Ito's palette, which the colour-blind can tell apart, and a marker for each colour.
STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"))

mpl.use("Agg")


def report(results: Path) -> list[Path]:
    """Write ``<study>.md`` and ``<study>.png`` beside every ``<study>.json`` of a folder; returns what was written."""
    written = []
    for path in sorted(results.glob("*.json")):
        found = read_json(path, made_by="report")
        variants = [variant_of(row) for row in found["rows"]]
        with writing(path.with_suffix(".md")) as draft:
            draft.write_text(table(path.stem, found["question"], variants), encoding="utf-8")
        with writing(path.with_suffix(".png")) as draft:
            picture(found["question"], variants).savefig(draft, format="png", dpi=120, metadata={"Software": None})
        written += [path.with_suffix(".md"), path.with_suffix(".png")]
    return written


def variant_of(row: Mapping[str, Any]) -> Variant:
    """Read a row as a variant that can be compared."""
    known = {key: row[key] for key in ("quality", "scores", "cost", "data", "source")}
    return Variant(row["name"], params=row["settings"], **known)


def table(study: str, question: str, variants: Sequence[Variant]) -> str:
    """Write a study as Markdown: sizes, nDCG@10 with bounds, and paired tests against its first run."""
    found = compare(variants)
    heads = ["run", "parameters", *(f"nDCG@10 {name}" for name in found.sets)]
    heads += [f"less {found.baseline.name}, {name}" for name in found.sets]
    lines = [
        f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *(_cells(v, found) for v in variants))
    ]
    settings = [f"- `{v.name}`: {', '.join(f'`{key}={value}`' for key, value in v.params.items())}" for v in variants]
    notes = [
        f"Parameters are those beside the embeddings, and their share of the run's own base model. Bounds are 95 %; "
        f"differences are paired over queries, p corrected for all {found.tests} tests (Holm).",
        f"`effir study studies/{study}.yaml` makes the runs, experiments `{study}-<run>`; `effir report` this page.",
    ]
    return "\n".join([f"# {question}", "", *lines, "", *notes, "", *settings, ""])


def _cells(variant: Variant, found: Comparison) -> list[str]:
    size = f"{variant.cost['parameters_without_embeddings'] / 1e6:.1f} M ({variant.cost['kept_share']:.1%})"
    quality = (_quality(variant.quality.get(name)) for name in found.sets)
    return [variant.name, size, *quality, *(_difference(variant, found, name) for name in found.sets)]


def _quality(figures: Mapping[str, float] | None) -> str:
    if figures is None:
        return "not evaluated"
    return f"{figures['ndcg_at_10']:.3f} ({figures['ndcg_at_10_low']:.3f} to {figures['ndcg_at_10_high']:.3f})"


def _difference(variant: Variant, found: Comparison, name: str) -> str:
    one = found.difference(variant.name, name)
    if one is None or one.test is None or one.p is None:
        return one.reason if one else ""
    return f"{one.test.difference:+.3f} ({one.test.low:+.3f} to {one.test.high:+.3f}), p {one.p:.2g}"


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
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend()
    figure.suptitle(question)
    return figure


def _ways(variants: Sequence[Variant]) -> dict[str, list[Variant]]:
    found: dict[str, list[Variant]] = {}
    for variant in variants:
        way, _, number = variant.name.rpartition("-")
        found.setdefault(way if number.isdigit() else variant.name, []).append(variant)
    return {way: sorted(members, key=lambda v: v.cost["kept_share"]) for way, members in found.items()}
