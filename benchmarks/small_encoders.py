"""Measure a small encoder, which one could use instead of a cut model, on the sets of the studies."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import click
import faiss
from sentence_transformers import SentenceTransformer

from benchmarks.contenders import BATCH
from benchmarks.encode import MINILM
from benchmarks.table import ratio, save, times
from effir.data.beir import Collection, open_collection
from effir.data.sources import fetch
from effir.evaluation.metrics import evaluate_run, summary
from effir.evaluation.significance import bootstrap_bounds
from effir.evaluation.speed import alternate
from effir.files import state_dir
from effir.model.retriever import build_retriever, encode_documents
from effir.params import load_params
from stages.paths import BASE, DEV, EVAL
from stages.settings import retriever_settings

DEPTH = 100
Encode = Callable[[list[str]], Any]


def small_encoder() -> tuple[Any, Encode]:
    """Open all-MiniLM-L6-v2 by sentence-transformers; the caller sets ``max_seq_length``."""
    model = SentenceTransformer(str(fetch(MINILM, state_dir("downloads"))), device="cpu")
    return model, partial(model.encode, batch_size=BATCH, show_progress_bar=False, normalize_embeddings=True)


def quality_of(documents: Encode, queries: Encode, collection: Collection) -> tuple[dict[str, float], dict[str, float]]:
    """Search the whole set exactly; return the metrics of `metrics/<set>.json`, and nDCG@10 of each query."""
    split = collection.evaluation_split()
    asked = collection.queries(split)
    names, contents = zip(*((document.id, document.content) for document in collection.documents()), strict=True)
    index = faiss.IndexFlatIP((vectors := documents(list(contents))).shape[1])
    index.add(vectors)
    scores, rows = index.search(queries(list(asked.values())), DEPTH + 1)
    run = {
        query: {names[row]: float(score) for row, score in zip(*found, strict=True)}
        for query, *found in zip(asked, rows, scores, strict=True)
    }
    quality = evaluate_run(run, collection.qrels(split), collection.copies(split, run))
    each = quality.by_query("ndcg_at_10")
    return summary(quality, bootstrap_bounds(list(each.values()))), {q: round(s, 4) for q, s in each.items()}


@click.command()
@click.option(
    "--set",
    "sets",
    multiple=True,
    type=(str, click.Path(path_type=Path), int),
    help="NAME, its BEIR folder, and the tokens at which its texts are truncated.",
)
@click.option("--rounds", default=5, show_default=True)
def main(sets: Sequence[tuple[str, Path, int]], rounds: int) -> None:
    """Evaluate all-MiniLM-L6-v2 on apidocs, apidocs-dev and other sets, and time it beside the uncompressed model."""
    params = load_params()
    (model, encode), usual_tokens = small_encoder(), params.retriever.max_tokens
    usual_sets = [("apidocs", EVAL / "apidocs", usual_tokens), ("apidocs-dev", DEV, usual_tokens)]
    if twice := {name for name, *_ in usual_sets} & {name for name, *_ in sets}:
        raise click.UsageError(f"{', '.join(sorted(twice))} is evaluated by default: leave it out")
    quality, scores = {}, {}
    for name, folder, tokens in (*usual_sets, *sets):
        model.max_seq_length = tokens
        quality[name], scores[name] = quality_of(encode, encode, open_collection(folder))
        click.echo(f"{name}: {quality[name]['ndcg_at_10']:.3f}")
    model.max_seq_length = usual_tokens
    documents = [d.content for d in islice(open_collection(EVAL / "apidocs").documents(), params.cost.documents)]
    usual = partial(encode_documents, build_retriever(BASE, **retriever_settings(params)), documents, batch_size=BATCH)
    seconds = alternate({"usual": usual, "small": partial(encode, documents)}, rounds)
    embeddings = model[0].model.embeddings.word_embeddings.weight.numel()
    row = {
        "name": "all-MiniLM-L6-v2",
        "source": MINILM,
        "parameters_without_embeddings": sum(p.numel() for p in model.parameters()) - embeddings,
        "document_speedup": ratio(seconds["usual"], seconds["small"]),
        "quality": quality,
        "scores": scores,
        "max_tokens": {name: tokens for name, _, tokens in (*usual_sets, *sets)},
    }
    columns: dict[str, Callable[[Any], str]] = {
        "": lambda row: row["name"],
        "non-embedding parameters": lambda row: f"{row['parameters_without_embeddings'] / 1e6:.1f} M",
        "documents, speed relative to the uncompressed model": lambda row: times(row["document_speedup"]),
        **{f"nDCG@10 {name}, {tokens} tokens": partial(_shown, name) for name, _, tokens in (*usual_sets, *sets)},
    }
    note = f"Speed: both by sentence-transformers in float32, at {usual_tokens} tokens, {rounds} alternated rounds."
    settings = {"documents": len(documents), "rounds": rounds, "max_tokens": usual_tokens}
    command = " ".join(["small_encoders", *(f"--set {name} DIR {tokens}" for name, _, tokens in sets)])
    save("small_encoders", "Small encoders", [row], columns=columns, notes=[note], settings=settings, command=command)


def _shown(name: str, row: Any) -> str:
    found = row["quality"][name]
    return f"{found['ndcg_at_10']:.3f} ({found['ndcg_at_10_low']:.3f} to {found['ndcg_at_10_high']:.3f})"


if __name__ == "__main__":
    main()
