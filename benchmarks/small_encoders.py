"""Cut models beside all-MiniLM-L6-v2 in the same two engines: nDCG@10, speed, bytes, and the Pareto front."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import faiss
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from benchmarks.encode import MINILM, alternated
from benchmarks.table import RESULTS, ratio, save, times
from benchmarks.two_engines import SMALL, Contender, prepared
from benchmarks.worker import Worker
from effir.data.beir import Collection, open_collection
from effir.data.calibration import load_calibration
from effir.data.sources import fetch
from effir.encoding.encoder import TextEncoder
from effir.evaluation.metrics import evaluate_run, summary
from effir.evaluation.significance import bootstrap_bounds, paired_test
from effir.files import read_json, sha256_of, state_dir, text_digest, write_json, writing
from effir.lab.pareto_plot import front, place
from effir.params import load_params
from stages.export import TEXTS
from stages.paths import CALIBRATION, DEV, EVAL, FULL

DEPTH = 100
WHOLE = "uncompressed"
ENGINES = {"torch": "PyTorch float32", "openvino": "OpenVINO int8"}
GREY = "#888888"


def quality(contender: Contender, engine: str, folder: Path, tokens: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the quality of a model on a set, from the state of an earlier run if it was measured before a kill."""
    measured = f"{contender.folder.name} {engine} {sha256_of(folder)} {tokens}"
    kept = state_dir("benchmarks") / f"quality-{text_digest(measured)[:16]}.json"
    if not kept.exists():
        write_json(kept, quality_of(contender.searching(engine, tokens), open_collection(folder)))
    metrics, scores = read_json(kept)
    return metrics, scores


def quality_of(encoder: TextEncoder, collection: Collection) -> tuple[dict[str, float], dict[str, float]]:
    """Search the whole set exactly; return the metrics of `metrics/<set>.json`, and nDCG@10 of each query."""
    split = collection.evaluation_split()
    asked = collection.queries(split)
    names, contents = zip(*((document.id, document.content) for document in collection.documents()), strict=True)
    index = faiss.IndexFlatIP((vectors := encoder.documents(list(contents))).shape[1])
    index.add(vectors)
    scores, rows = index.search(encoder.queries(list(asked.values())), DEPTH + 1)
    run = {
        query: {names[row]: float(score) for row, score in zip(*best, strict=True)}
        for query, *best in zip(asked, rows, scores, strict=True)
    }
    found = evaluate_run(run, collection.qrels(split), collection.copies(split, run))
    each = found.by_query("ndcg_at_10")
    return summary(found, bootstrap_bounds(list(each.values()))), {q: round(s, 4) for q, s in each.items()}


def pareto(rows: Sequence[Mapping[str, Any]], sets: Sequence[str]) -> Figure:
    """Plot nDCG@10 over documents a second: a panel a set, a marker a model and engine, a line for the Pareto front."""
    figure = Figure(figsize=(11, 4.2 * -(-len(sets) // 2)), layout="constrained")
    panels = list(figure.subplots(-(-len(sets) // 2), 2, squeeze=False).flat)
    labels: dict[Axes, list[Text]] = {}
    for axes, name in zip(panels, sets, strict=False):
        points = [(row["document_speedup"]["median"], row["quality"][name]["ndcg_at_10"]) for row in rows]
        axes.plot(*zip(*front(points), strict=True), color=GREY, linewidth=1, zorder=0)
        labels[axes] = []
        for row, point in zip(rows, points, strict=True):
            colour = "black" if row["name"] == SMALL else "tab:blue"
            axes.plot(*point, "*" if row["name"] == SMALL else "o", color=colour, fillstyle=_filled(row), label="_")
            labels[axes].append(axes.text(*point, row["name"], fontsize=8, color=colour))
        for fill, engine in (("none", ENGINES["torch"]), ("full", ENGINES["openvino"])):
            axes.plot([], [], "o", color="tab:blue", fillstyle=fill, label=engine)
        axes.set(title=name, xlabel="documents a second, relative to the uncompressed model in PyTorch float32")
        axes.set(ylabel="nDCG@10", xscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.margins(x=0.2, y=0.2)
        axes.legend(fontsize=8)
    for axes in panels[len(sets) :]:
        axes.remove()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes, texts in labels.items():
        place(axes, texts)
    return figure


def _filled(row: Mapping[str, Any]) -> Any:
    return "none" if row["engine"] == "torch" else "full"


def _models(given: Sequence[tuple[str, Path]]) -> Iterator[Contender]:
    texts = load_calibration(CALIBRATION, TEXTS)
    yield prepared(WHOLE, FULL, texts)
    for name, folder in given:
        yield prepared(name, folder, texts)
    yield prepared(SMALL, fetch(MINILM, state_dir("downloads")), texts)


@click.command()
@click.option("--model", "models", multiple=True, type=(str, click.Path(path_type=Path)), help="NAME and its folder.")
@click.option(
    "--set",
    "sets",
    multiple=True,
    type=(str, click.Path(path_type=Path), int),
    help="NAME, its BEIR folder, and the tokens at which its texts are truncated.",
)
@click.option("--documents", "count", default=128, show_default=True)
@click.option("--queries", "asked", default=40, show_default=True)
@click.option("--rounds", default=5, show_default=True)
def main(
    models: Sequence[tuple[str, Path]],
    sets: Sequence[tuple[str, Path, int]],
    count: int,
    asked: int,
    rounds: int,
) -> None:
    """Compare the uncompressed model, each --model and all-MiniLM-L6-v2 on apidocs, apidocs-dev and other sets."""
    tokens = load_params().retriever.max_tokens
    usual_sets = [("apidocs", EVAL / "apidocs", tokens), ("apidocs-dev", DEV, tokens)]
    everywhere = [*usual_sets, *sets]
    if twice := {name for name, *_ in usual_sets} & {name for name, *_ in sets}:
        raise click.UsageError(f"{', '.join(sorted(twice))} is evaluated by default: leave it out")
    entries = [(contender, engine) for contender in _models(models) for engine in ENGINES]
    collection = open_collection(EVAL / "apidocs")
    contents = [document.content for document in collection.documents()]
    documents = contents[:: max(1, len(contents) // count)][:count]
    queries = list(collection.queries(collection.evaluation_split()).values())[:asked]
    workers = {f"{each.name} {engine}": Worker(each.timed(engine, tokens)) for each, engine in entries}
    seconds = alternated(workers, documents, queries, rounds)
    for worker in workers.values():
        worker.close()
    first, rows = f"{WHOLE} torch", []
    for contender, engine in entries:
        name = f"{contender.name} {engine}"
        found = {each: quality(contender, engine, folder, limit) for each, folder, limit in everywhere}
        click.echo(
            f"{name}: " + ", ".join(f"{each} {metrics['ndcg_at_10']:.4f}" for each, (metrics, _) in found.items())
        )
        rows.append(
            {
                "name": contender.name,
                "engine": engine,
                "ours": contender.ours,
                "parameters_without_embeddings": contender.parameters(),
                "bytes": contender.weights(engine),
                "seconds": seconds[name],
                "documents_per_second": len(documents) / statistics.median(seconds[name]["documents"]),
                "document_speedup": ratio(seconds[first]["documents"], seconds[name]["documents"]),
                "over_small": ratio(seconds[f"{SMALL} {engine}"]["documents"], seconds[name]["documents"]),
                "query_milliseconds": statistics.median(seconds[name]["query"]) * 1e3,
                "quality": {each: metrics for each, (metrics, _) in found.items()},
                "scores": {each: scores for each, (_, scores) in found.items()},
            }
        )
    for row in rows:
        row["against_small"] = {name: _against(row, rows, name) for name, *_ in everywhere} if row["ours"] else {}
    write(rows, everywhere, {"documents": len(documents), "queries": len(queries), "rounds": rounds})


def _against(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    """Test a model against the small encoder in the same engine: the paired difference of nDCG@10 and its bounds."""
    (small,) = (each for each in rows if each["name"] == SMALL and each["engine"] == row["engine"])
    test = paired_test(row["scores"][name], small["scores"][name])
    return {"difference": test.difference, "low": test.low, "high": test.high}


def write(
    rows: Sequence[Mapping[str, Any]], sets: Sequence[tuple[str, Path, int]], settings: Mapping[str, Any]
) -> None:
    """Write the table, its JSON and the plot."""
    columns: dict[str, Callable[[Any], str]] = {
        "": lambda row: row["name"],
        "engine": lambda row: ENGINES[row["engine"]],
        "non-embedding parameters": lambda row: f"{row['parameters_without_embeddings'] / 1e6:.1f} M",
        "MB": lambda row: f"{row['bytes'] / 1e6:.0f}",
        "documents a second": lambda row: f"{row['documents_per_second']:.0f}",
        "over the uncompressed model in PyTorch": lambda row: times(row["document_speedup"]),
        f"over {SMALL} in the same engine": lambda row: times(row["over_small"]),
        "query p50, ms": lambda row: f"{row['query_milliseconds']:.1f}",
        **{f"nDCG@10 {name}, {tokens} tokens": partial(_shown, name) for name, _, tokens in sets},
        **{f"less {SMALL}'s, {name}": partial(_difference, name) for name, *_ in sets},
    }
    notes = [
        "PyTorch: timed by sentence-transformers in float32; nDCG@10 of effir's encoder in the precision `auto`.",
        "OpenVINO: effir's runner and quantisation, the same for all. MB: the weights as they are stored.",
        "Speed: median of alternated rounds, a process each, and their range. Differences: paired, 95 %.",
    ]
    named = " ".join(f"--set {name} DIR {tokens}" for name, _, tokens in sets[2:])
    given = " ".join(
        f"--model {name} DIR" for name in dict.fromkeys(r["name"] for r in rows if r["ours"]) if name != WHOLE
    )
    command = f"small_encoders {given} {named}".strip()
    save("small_encoders", "Small encoders", rows, columns=columns, notes=notes, settings=settings, command=command)
    with writing(RESULTS / "small_encoders.png") as draft:
        pareto(rows, [name for name, *_ in sets]).savefig(draft, format="png", dpi=120, metadata={"Software": None})


def _shown(name: str, row: Any) -> str:
    found = row["quality"][name]
    return f"{found['ndcg_at_10']:.3f} ({found['ndcg_at_10_low']:.3f} to {found['ndcg_at_10_high']:.3f})"


def _difference(name: str, row: Any) -> str:
    found = row["against_small"].get(name)
    return f"{found['difference']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})" if found else ""


if __name__ == "__main__":
    main()
