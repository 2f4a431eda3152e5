"""Cut models beside all-MiniLM-L6-v2 in the same two engines: nDCG@10, speed, bytes, and the Pareto front."""

import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from benchmarks.encode import MINILM, alternated
from benchmarks.table import RESULTS, ratio, save, times
from benchmarks.two_engines import SMALL, Model, prepared
from benchmarks.worker import Worker
from effir.data.beir import open_collection
from effir.data.calibration import load_calibration
from effir.data.sources import fetch
from effir.encoding.backends import Backend
from effir.evaluation.metrics import as_run, evaluate_run, score_report
from effir.evaluation.significance import paired_test
from effir.files import read_json, sha256_of, state_dir, text_digest, write_json, writing
from effir.index.corpus_search import search_corpus
from effir.lab.pareto_plot import front, place
from effir.lab.study_plots import GREY
from effir.params import load_params
from stages.export import TEXTS
from stages.paths import CALIBRATION, DEV, EVAL, FULL

DEPTH = 100
UNCOMPRESSED = "uncompressed"
ENGINES: Mapping[Backend, str] = {"torch": "PyTorch", "openvino": "OpenVINO int8"}
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
Row = Mapping[str, Any]


class Set(NamedTuple):
    """A collection to search, and the tokens at which its texts are truncated."""

    name: str
    folder: Path
    tokens: int


@click.command()
@click.option("--model", "named", multiple=True, type=(str, FOLDER), help="NAME and folder of a cut retriever.")
@click.option("--set", "others", multiple=True, type=(str, FOLDER, int), help="NAME, BEIR folder, tokens of a text.")
@click.option("--documents", "count", default=128, show_default=True)
@click.option("--queries", "asked", default=40, show_default=True)
@click.option("--rounds", default=5, show_default=True)
def main(
    named: Sequence[tuple[str, Path]], others: Sequence[tuple[str, Path, int]], count: int, asked: int, rounds: int
) -> None:
    """Compare the uncompressed model, each --model and all-MiniLM-L6-v2 on apidocs, apidocs-dev and other sets."""
    tokens = load_params().retriever.max_tokens
    sets = [Set("apidocs", EVAL / "apidocs", tokens), Set("apidocs-dev", DEV, tokens), *(Set(*each) for each in others)]
    _require_different("--set", [each.name for each in sets])
    _require_different("--model", [UNCOMPRESSED, SMALL, *(name for name, _ in named)])
    entries = [(model, engine) for model in _models(named) for engine in ENGINES]
    collection = open_collection(EVAL / "apidocs")
    contents = [document.content for document in collection.documents()]
    documents = contents[:: max(1, len(contents) // count)][:count]
    queries = list(collection.queries(collection.evaluation_split()).values())[:asked]
    seconds = timed(entries, documents, queries, tokens, rounds)
    rows = [_row(model, engine, sets, seconds, len(documents)) for model, engine in entries]
    rows = [row | {"against_small": {each.name: _against(row, rows, each.name) for each in sets}} for row in rows]
    limits = {each.name: each.tokens for each in sets}
    settings = {"documents": len(documents), "queries": len(queries), "rounds": rounds, "max_tokens": limits}
    write(rows, sets, settings)


def timed(
    entries: Sequence[tuple[Model, Backend]], documents: Sequence[str], queries: Sequence[str], tokens: int, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Time all in turn, a process each: seconds of the documents and of the median query in each round."""
    workers = {f"{model.name} {engine}": Worker(model.timed(engine, tokens)) for model, engine in entries}
    seconds = alternated(workers, documents, queries, rounds)
    for worker in workers.values():
        worker.close()
    return seconds


def quality(model: Model, engine: Backend, searched: Set) -> dict[str, Any]:
    """Return the content of `baselines/<set>.json` for a model.

    What an earlier run of the same code and bytes measured is kept, in case it was killed.
    """
    measured = f"{model.folder.name} {engine} {sha256_of(searched.folder)} {searched.tokens}"
    kept = state_dir("benchmarks") / f"quality-{text_digest(measured)[:16]}.json"
    if not kept.exists():
        collection, encoder = open_collection(searched.folder), model.searching(engine, searched.tokens)
        split = collection.evaluation_split()
        queries, entries = collection.queries(split), ((d.id, d.title, d.content) for d in collection.documents())
        work = kept.with_suffix(".shards")
        run = as_run(queries, search_corpus(entries, list(queries.values()), encoder, DEPTH + 1, work=work))
        found = evaluate_run(run, collection.qrels(split), collection.copies(split, run))
        evaluate = load_params().evaluate
        write_json(kept, score_report(found, evaluate.bootstrap, evaluate.seed))
        shutil.rmtree(work, ignore_errors=True)
    report: dict[str, Any] = read_json(kept)
    return report


def front_plot(rows: Sequence[Row], sets: Sequence[str]) -> Figure:
    """Plot nDCG@10 over documents a second: a panel a set, a marker a model and engine, a line for the Pareto front."""
    height = -(-len(sets) // 2)
    figure = Figure(figsize=(11, 4.2 * height), layout="constrained")
    panels = list(figure.subplots(height, 2, squeeze=False).flat)
    labels = {axes: _panel(axes, name, rows) for axes, name in zip(panels, sets, strict=False)}
    for axes in panels[len(sets) :]:
        axes.remove()
    figure.draw_without_rendering()  # the layout decides where labels have room
    figure.set_layout_engine("none")
    for axes, texts in labels.items():
        place(axes, texts)
    return figure


def _panel(axes: Axes, name: str, rows: Sequence[Row]) -> list[Text]:
    points = [(row["document_speedup"]["median"], row["quality"][name]["ndcg_at_10"]) for row in rows]
    axes.plot(*zip(*front(points), strict=True), color=GREY, linewidth=1, zorder=0)
    labels = []
    for row, point in zip(rows, points, strict=True):
        colour, marker = ("tab:blue", "o") if row["ours"] else ("black", "*")
        axes.plot(*point, marker, color=colour, markersize=8, fillstyle=_fill(row["engine"]))
        labels.append(axes.text(*point, row["name"], fontsize=8, color=colour))
    for engine, shown in ENGINES.items():
        axes.plot([], [], "o", color=GREY, fillstyle=_fill(engine), label=shown)
    axes.set(title=name, xlabel="documents a second, relative to the uncompressed model in PyTorch", ylabel="nDCG@10")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.2, y=0.2)
    axes.legend(fontsize=8)
    return labels


def _fill(engine: Backend) -> Any:
    return "none" if engine == "torch" else "full"


def _require_different(option: str, names: Sequence[str]) -> None:
    if twice := {name for name in names if names.count(name) > 1}:
        raise click.UsageError(f"{option}: {', '.join(sorted(twice))} is named twice or taken by default: rename it")


def _models(named: Sequence[tuple[str, Path]]) -> Iterator[Model]:
    texts = load_calibration(CALIBRATION, TEXTS)
    for name, folder in ((UNCOMPRESSED, FULL), *named, (SMALL, fetch(MINILM, state_dir("downloads")))):
        yield prepared(name, folder, texts)


def _row(
    model: Model, engine: Backend, sets: Sequence[Set], seconds: Mapping[str, Mapping[str, list[float]]], count: int
) -> dict[str, Any]:
    found = {each.name: quality(model, engine, each) for each in sets}
    shown = (f"{name} {report['metrics']['ndcg_at_10']:.4f}" for name, report in found.items())
    click.echo(f"{model.name}, {ENGINES[engine]}: {', '.join(shown)}")
    own = seconds[f"{model.name} {engine}"]
    others = (f"{UNCOMPRESSED} torch", f"{UNCOMPRESSED} {engine}", f"{SMALL} {engine}")
    first, uncompressed, small = (seconds[name]["documents"] for name in others)
    return {
        "name": model.name,
        "engine": engine,
        "ours": model.ours,
        "parameters_without_embeddings": model.parameters(),
        "bytes": model.weights(engine),
        "seconds": own,
        "documents_per_second": count / statistics.median(own["documents"]),
        "document_speedup": ratio(first, own["documents"]),
        "over_uncompressed": ratio(uncompressed, own["documents"]),
        "over_small": ratio(small, own["documents"]),
        "query_milliseconds": statistics.median(own["query"]) * 1e3,
        "quality": {name: report["metrics"] for name, report in found.items()},
        "scores": {name: report["ndcg_at_10"] for name, report in found.items()},
    }


def _against(row: Row, rows: Sequence[Row], name: str) -> dict[str, float] | None:
    """Test a cut model against the small encoder in the same engine: the paired difference of nDCG@10, its bounds."""
    (small,) = (each for each in rows if each["name"] == SMALL and each["engine"] == row["engine"])
    if not row["ours"]:
        return None
    test = paired_test(row["scores"][name], small["scores"][name])
    return {"difference": test.difference, "low": test.low, "high": test.high}


def write(rows: Sequence[Row], sets: Sequence[Set], settings: Mapping[str, Any]) -> None:
    """Write the table, its JSON and the plot."""
    columns: dict[str, Callable[[Any], str]] = {
        "": lambda row: row["name"],
        "engine": lambda row: ENGINES[row["engine"]],
        "non-embedding parameters": lambda row: f"{row['parameters_without_embeddings'] / 1e6:.1f} M",
        "MB": lambda row: f"{row['bytes'] / 1e6:.0f}",
        "documents a second": lambda row: f"{row['documents_per_second']:.0f}",
        "over the uncompressed model in PyTorch": lambda row: times(row["document_speedup"]),
        "over it in the same engine": lambda row: times(row["over_uncompressed"]),
        f"over {SMALL} in the same engine": lambda row: times(row["over_small"]),
        "query p50, ms": lambda row: f"{row['query_milliseconds']:.1f}",
        **{f"nDCG@10 {each.name}, {each.tokens} tokens": partial(_shown, each.name) for each in sets},
        **{f"difference to {SMALL}, {each.name}": partial(_difference, each.name) for each in sets},
    }
    notes = [
        "PyTorch is timed by sentence-transformers in float32. There nDCG@10 of decoders is of the precision `auto` "
        f"(bfloat16 where the processor has it), that of {SMALL} of float32.",
        "OpenVINO: effir's runner and quantisation, the same for all. MB: the weights as they are stored.",
        f"Speed: {settings['documents']} documents of apidocs at {sets[0].tokens} tokens and {settings['queries']} "
        f"single queries, {settings['rounds']} alternated rounds, a process each.",
        "Differences: paired over queries, 95 %, in the same engine.",
    ]
    cut = [row["name"] for row in rows if row["ours"] and row["name"] != UNCOMPRESSED]
    given = [f"--model {name} DIR" for name in dict.fromkeys(cut)]
    given += [f"--set {each.name} DIR {each.tokens}" for each in sets[2:]]
    given += [f"--{key} {settings[key]}" for key in ("documents", "queries", "rounds")]
    command = " ".join(["small_encoders", *given])
    save("small_encoders", "Small encoders", rows, columns=columns, notes=notes, settings=settings, command=command)
    with writing(RESULTS / "small_encoders.png") as draft:
        plot = front_plot(rows, [each.name for each in sets])
        plot.savefig(draft, format="png", dpi=120, metadata={"Software": None})


def _shown(name: str, row: Row) -> str:
    found = row["quality"][name]
    return f"{found['ndcg_at_10']:.3f} ({found['ndcg_at_10_low']:.3f} to {found['ndcg_at_10_high']:.3f})"


def _difference(name: str, row: Row) -> str:
    found = row["against_small"][name]
    return f"{found['difference']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})" if found else ""


if __name__ == "__main__":
    main()
