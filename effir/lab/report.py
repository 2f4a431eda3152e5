"""Write the tables and plots of studies, from their JSON alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from effir.evaluation.significance import bootstrap_ratio
from effir.evaluation.variant import Variant
from effir.files import read_json, writing
from effir.lab.comparison import Comparison, compare, over_seeds
from effir.lab.pareto_plot import pareto
from effir.lab.study_plots import curves, cut_layers, intervals, sets_of
from effir.lab.table import seeds, spread


def report(results: Path, encoders: Path | None = None) -> list[Path]:
    """Write a table and plots beside every ``<study>.json`` of a folder, and one plot of all; return their paths.

    These are ``<study>.md``, ``<study>.png``, ``<study>-curves.png`` if runs differ only in size, and
    ``<study>-layers.png`` if the results say which layers were cut. ``pareto.png`` shows the runs of all studies by
    speed, and the small ``encoders``, the JSON of `benchmarks.small_encoders`.
    """
    written, everyone = [], {}
    for path in sorted(results.glob("*.json")):
        found = read_json(path)
        variants = everyone[path.stem] = over_seeds([variant_of(row) for row in found["rows"]])
        with writing(path.with_suffix(".md")) as draft:
            text = table(path.stem, found["question"], variants, found["baseline"], found["compare_with"])
            draft.write_text(text, encoding="utf-8")
        plots = {
            path.stem: intervals(found["question"], variants, found["baseline"]),
            f"{path.stem}-curves": curves(found["question"], variants),
            f"{path.stem}-layers": cut_layers(variants),
        }
        written += [path.with_suffix(".md"), *_saved(results, plots)]
    if everyone:
        small = read_json(encoders)["rows"] if encoders and encoders.exists() else []
        written += _saved(results, {"pareto": pareto(everyone, small)})
    return written


def _saved(results: Path, plots: Mapping[str, Figure | None]) -> list[Path]:
    """Save the plots that exist, and remove the files of those that do not any more."""
    drawn = {results / f"{name}.png": figure for name, figure in plots.items()}
    for path, figure in drawn.items():
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        with writing(path) as draft:
            figure.savefig(draft, format="png", dpi=120, metadata={"Software": None})
    return [path for path, figure in drawn.items() if figure]


def variant_of(row: Mapping[str, Any]) -> Variant:
    """Read a row of a study's results as a variant."""
    known = {key: row[key] for key in ("quality", "scores", "cost", "data", "source")}
    return Variant(row["name"], params=row["settings"], layers=row.get("layers", {}), **known)


def table(study: str, question: str, variants: Sequence[Variant], baseline: str, other: str | None = None) -> str:
    """Write a study as Markdown: sizes, nDCG@10 with intervals, the share of the baseline's, paired tests.

    Tests are against the ``baseline`` and the ``other`` run, if they were run. Seeds are joined before, by
    :func:`effir.lab.comparison.over_seeds`.
    """
    names, asked = [variant.name for variant in variants], list(dict.fromkeys([baseline, *([other] if other else [])]))
    found = [compare(sorted(variants, key=lambda v: v.name != name)) for name in asked if name in names]
    sets = sets_of(variants)
    heads = ["run", "parameters", *(f"nDCG@10 {name}" for name in sets)]
    heads += [f"share of {baseline}'s, {name}" for name in sets if baseline in names]
    heads += [f"difference to {each.baseline.name}, {name}" for each in found for name in sets]
    cells = [heads, ["---"] * len(heads), *(_cells(v, found, sets, baseline) for v in variants)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    notes = _notes(study, found, asked, names)
    return "\n".join([f"# {question}", "", *lines, "", *notes, "", *_settings(variants), ""])


def _notes(study: str, found: Sequence[Comparison], asked: Sequence[str], names: Sequence[str]) -> list[str]:
    tests = " and for the ".join(f"{each.tests} tests against {each.baseline.name}" for each in found if each.tests)
    return [
        "Parameters exclude embeddings; the share is of the run's own base model. Intervals are 95 %, over queries. "
        "A row of several seeds is the mean of each query's scores, and the lowest and highest seed.",
        *([f"Differences are paired over queries; p is corrected for the {tests} (Holm)."] if tests else []),
        *(f"`{name}` was not run yet, so there is no comparison with it." for name in asked if name not in names),
        f"`effir study studies/{study}.yaml` makes the runs, experiments `{study}-<run>`; `effir report` writes this.",
    ]


def _settings(variants: Sequence[Variant]) -> list[str]:
    """List the settings over params.yaml: first those of all runs, then those of each."""
    every = {f"`{v.name}`": [f"`{key}={value}`" for key, value in v.params.items()] for v in variants}
    first, *others = every.values()
    shared = [one for one in first if all(one in each for each in others)] if others else []
    own = {name: [one for one in each if one not in shared] for name, each in every.items()}
    listed = ({"every run": shared} if shared else {}) | own
    return [f"- {name}: {', '.join(settings) or 'no other settings'}" for name, settings in listed.items()]


def _cells(variant: Variant, found: Sequence[Comparison], sets: Sequence[str], baseline: str) -> list[str]:
    size = f"{variant.cost['parameters_without_embeddings'] / 1e6:.1f} M ({variant.cost['kept_share']:.1%})"
    quality = (_quality(variant.quality.get(name)) for name in sets)
    kept = (_kept(variant, each, name) for each in found if each.baseline.name == baseline for name in sets)
    return [variant.name, size, *quality, *kept, *(_difference(variant, each, name) for each in found for name in sets)]


def _quality(metrics: Mapping[str, float] | None) -> str:
    if metrics is None:
        return "not evaluated"
    text = spread(metrics, "ndcg_at_10")
    return f"{text}; {seeds(metrics).replace(':', ' seeds')}" if "seeds" in metrics else text


def _kept(variant: Variant, found: Comparison, name: str) -> str:
    one, full = found.difference(variant.name, name), found.baseline.scores.get(name, {})
    if one is None or one.test is None or not any(full.values()):
        return ""
    kept = bootstrap_ratio(variant.scores[name], full)
    return f"{kept.value:.3f} ({kept.low:.3f} to {kept.high:.3f})"


def _difference(variant: Variant, found: Comparison, name: str) -> str:
    one = found.difference(variant.name, name)
    if one is None or one.test is None or one.p is None:
        return one.reason if one else ""
    return f"{one.test.difference:+.3f} ({one.test.low:+.3f} to {one.test.high:+.3f}), p {one.p:.2g}"
