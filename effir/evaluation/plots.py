"""Every plot of the pipeline, from plain numbers: readable in print, colour-blind safe (Okabe and Ito's palette)."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from effir.evaluation.baselines import title
from effir.files import writing

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"
CUTOFFS = (1, 5, 10, 100)
OTHERS = ((GREY, "s"), (ORANGE, "^"), (GREEN, "D"), ("#CC79A7", "v"), ("#56B4E9", "P"))
"""Colour and marker of each baseline, in order."""

mpl.use("Agg")


def draw_redundancy(importance: Mapping[str, Any], into: Path) -> None:
    """Draw the three curves of 1 - cos by layer (EffiR, sec. 3.1): low is redundant."""
    figure, (axes,) = _figure()
    for name, colour, marker in (("attention", BLUE, "o"), ("mlp", ORANGE, "s"), ("block", GREEN, "^")):
        axes.plot(importance[name], color=colour, marker=marker, markersize=4, label=name)
    axes.set(xlabel="layer", ylabel="1 - cos(input, output)", yscale="log")
    axes.set_title(f"Redundancy over {importance['samples']} texts, {importance['tokens']:,} tokens")
    axes.legend()
    _save(figure, into)


def draw_slimming(report: Mapping[str, Any], into: Path) -> None:
    """Draw the distribution of channel scores and the width of each layer."""
    figure, (left, right) = _figure(columns=2)
    scores = report["scores"]
    if scores:
        edges = np.asarray(scores["edges"])
        left.bar(edges[:-1], scores["counts"], width=np.diff(edges), align="edge", color=BLUE)
        left.axvline(scores["threshold"], color=ORANGE, linestyle="--", label="lowest score kept")
        left.legend()
    left.set(xlabel=f"channel score ({report['method']})", ylabel="channels", yscale="log")
    right.bar(range(len(report["widths"])), report["widths"], color=BLUE)
    right.set(xlabel="layer", ylabel="MLP channels kept")
    _save(figure, into)


def draw_loss(curve: Sequence[Mapping[str, float]], into: Path) -> None:
    """Draw the training loss by step."""
    figure, (axes,) = _figure()
    axes.plot([row["step"] for row in curve], [row["loss"] for row in curve], color=BLUE, marker="o", markersize=4)
    axes.set(xlabel="step", ylabel="loss: InfoNCE and distillation")
    axes.set_title("Fine-tuning" if curve else "Fine-tuning was skipped: finetune.steps is 0")
    _save(figure, into)


def draw_quality(
    name: str, metrics: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]], into: Path
) -> None:
    """Draw nDCG and recall at 1, 5, 10 and 100, the retriever beside its baselines, with the bounds of nDCG@10."""
    figure, both = _figure(columns=2)
    styles = zip(baselines.items(), cycle(OTHERS), strict=False)
    lines = [("EffiR", metrics, BLUE, "o"), *((title(key), found, *style) for (key, found), style in styles)]
    for axes, measure in zip(both, ("ndcg", "recall"), strict=True):
        for label, values, colour, marker in lines:
            heights = [values[f"{measure}_at_{k}"] for k in CUTOFFS]
            axes.plot(range(len(CUTOFFS)), heights, color=colour, marker=marker, label=label)
        axes.set(xlabel="cutoff", ylabel={"ndcg": "nDCG", "recall": "recall"}[measure], ylim=(0, 1))
        axes.set_xticks(range(len(CUTOFFS)), [str(k) for k in CUTOFFS])
        axes.legend()
    middle, low, high = (metrics[f"ndcg_at_10{end}"] for end in ("", "_low", "_high"))
    both[0].errorbar([CUTOFFS.index(10)], [middle], [[middle - low], [high - middle]], color=BLUE, capsize=4)
    figure.suptitle(f"{name}: nDCG@10 {middle:.3f} ({low:.3f} to {high:.3f}, 95 %), {metrics['queries']:.0f} queries")
    _save(figure, into)


def _figure(columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4 + 3 * columns, 3.6), layout="constrained")
    axes: list[Axes] = list(figure.subplots(1, columns, squeeze=False)[0])
    for one in axes:
        one.grid(alpha=0.3)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, into: Path) -> None:
    with writing(into) as draft:
        # No software name or date inside: equal numbers give equal bytes.
        figure.savefig(draft, format="png", dpi=120, metadata={"Software": None})
