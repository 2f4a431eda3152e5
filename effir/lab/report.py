"""Tables and pictures of studies, from their JSON alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from effir.evaluation.significance import bootstrap_ratio
from effir.evaluation.variant import Variant
from effir.files import read_json, writing
from effir.lab.comparison import Comparison, compare
from effir.lab.pareto_plot import pareto
from effir.lab.seeds import over_seeds
from effir.lab.study_plots import curves, layers_picture, picture

PARETO = "pareto"


def report(results: Path, outsiders: Path | None = None) -> list[Path]:
    """Write table and pictures beside every ``<study>.json`` of a folder, and one over all; returns what was written.

    ``<study>.md``, ``<study>.png``, ``<study>-curves.png`` where runs differ in size alone, and ``<study>-layers.png``
    where it is known what was cut where. ``pareto.png`` holds the runs of all studies and ``outsiders``, the JSON of
    `benchmarks.outsiders`, by speed.
    """
    written, everyone = [], {}
    for path in sorted(results.glob("*.json")):
        found = read_json(path)
        variants = everyone[path.stem] = over_seeds([variant_of(row) for row in found["rows"]])
        with writing(path.with_suffix(".md")) as draft:
            text = table(path.stem, found["question"], variants, found["baseline"], found["rival"])
            draft.write_text(text, encoding="utf-8")
        figures = {
            path.stem: picture(found["question"], variants, found["baseline"]),
            f"{path.stem}-curves": curves(found["question"], variants),
            f"{path.stem}-layers": layers_picture(variants),
        }
        written += [path.with_suffix(".md"), *_drawn(results, figures)]
    if everyone:
        small = read_json(outsiders)["rows"] if outsiders and outsiders.exists() else []
        written += _drawn(results, {PARETO: pareto(everyone, small)})
    return written


def _drawn(results: Path, figures: Mapping[str, Figure | None]) -> list[Path]:
    drawn = {results / f"{name}.png": figure for name, figure in figures.items() if figure}
    for name in figures:
        if not figures[name]:
            (results / f"{name}.png").unlink(missing_ok=True)  # drawn for rows that are others now
    for path, figure in drawn.items():
        with writing(path) as draft:
            figure.savefig(draft, format="png", dpi=120, metadata={"Software": None})
    return list(drawn)


def variant_of(row: Mapping[str, Any]) -> Variant:
    """Read a row as a variant that can be compared."""
    known = {key: row[key] for key in ("quality", "scores", "cost", "data", "source")}
    return Variant(row["name"], params=row["settings"], layers=row.get("layers", {}), **known)


def table(study: str, question: str, variants: Sequence[Variant], baseline: str, rival: str | None = None) -> str:
    """Write a study as Markdown: sizes, nDCG@10 with bounds, the share of the baseline's, paired tests.

    Tests are against the ``baseline`` and the ``rival``, as far as they were run. Runs of several seeds are joined
    before, by :func:`effir.lab.seeds.over_seeds`.
    """
    names, asked = (
        [variant.name for variant in variants],
        [baseline, *([rival] if rival not in (None, baseline) else [])],
    )
    against = [name for name in asked if name in names]
    found = [_compared(variants, name) for name in against]
    sets = list(dict.fromkeys(name for variant in variants for name in variant.quality))
    heads = ["run", "parameters", *(f"nDCG@10 {name}" for name in sets)]
    heads += [f"share of {baseline}'s, {name}" for name in sets if baseline in names]
    heads += [f"difference to {each.baseline.name}, {name}" for each in found for name in sets]
    lines = [
        f"| {' | '.join(cells)} |"
        for cells in (heads, ["---"] * len(heads), *(_cells(v, found, sets, baseline) for v in variants))
    ]
    tests = " and of all ".join(f"{each.tests} tests against {each.baseline.name}" for each in found if each.tests)
    notes = [
        "Parameters are those beside the embeddings, and their share of the run's own base model. Bounds are 95 % over "
        "queries; a row of several seeds is the mean of each query's scores, with the lowest and the highest seed, and "
        "is compared as that mean, with rows of one seed too.",
        *([f"Differences are paired over queries, p corrected for the number of all {tests} (Holm)."] if tests else []),
        *(f"`{name}` was not run yet: nothing is compared with it." for name in asked if name not in names),
        f"`effir study studies/{study}.yaml` makes the runs, experiments `{study}-<run>`; `effir report` this page.",
    ]
    return "\n".join([f"# {question}", "", *lines, "", *notes, "", *_settings(variants), ""])


def _settings(variants: Sequence[Variant]) -> list[str]:
    """List what is set over params.yaml: what all runs share once, then what each has of its own."""
    every = {v.name: [f"`{key}={value}`" for key, value in v.params.items()] for v in variants}
    shared = [one for one in every[variants[0].name] if all(one in each for each in every.values())]
    if len(variants) == 1 or not shared:
        return [_setting(f"`{name}`", each) for name, each in every.items()]
    own = {name: [one for one in each if one not in shared] for name, each in every.items()}
    return [_setting("every run", shared), *(_setting(f"`{name}`", each) for name, each in own.items())]


def _setting(name: str, settings: Sequence[str]) -> str:
    return f"- {name}: {', '.join(settings) or 'nothing of its own'}"


def _compared(variants: Sequence[Variant], first: str) -> Comparison:
    return compare(sorted(variants, key=lambda variant: variant.name != first))


def _cells(variant: Variant, found: Sequence[Comparison], sets: Sequence[str], baseline: str) -> list[str]:
    size = f"{variant.cost['parameters_without_embeddings'] / 1e6:.1f} M ({variant.cost['kept_share']:.1%})"
    quality = (_quality(variant.quality.get(name)) for name in sets)
    kept = (_kept(variant, each, name) for each in found if each.baseline.name == baseline for name in sets)
    return [variant.name, size, *quality, *kept, *(_difference(variant, each, name) for each in found for name in sets)]


def _quality(figures: Mapping[str, float] | None) -> str:
    if figures is None:
        return "not evaluated"
    text = f"{figures['ndcg_at_10']:.3f} ({figures['ndcg_at_10_low']:.3f} to {figures['ndcg_at_10_high']:.3f})"
    if "seeds" not in figures:
        return text
    lowest, highest = figures["ndcg_at_10_lowest"], figures["ndcg_at_10_highest"]
    return f"{text}; {figures['seeds']:.0f} seeds {lowest:.3f} to {highest:.3f}"


def _kept(variant: Variant, found: Comparison, name: str) -> str:
    one = found.difference(variant.name, name)
    whole = found.baseline.scores.get(name, {})
    if one is None or one.test is None or not any(whole.values()):
        return ""
    kept = bootstrap_ratio(variant.scores[name], whole)
    return f"{kept.value:.3f} ({kept.low:.3f} to {kept.high:.3f})"


def _difference(variant: Variant, found: Comparison, name: str) -> str:
    one = found.difference(variant.name, name)
    if one is None or one.test is None or one.p is None:
        return one.reason if one else ""
    return f"{one.test.difference:+.3f} ({one.test.low:+.3f} to {one.test.high:+.3f}), p {one.p:.2g}"
