"""Search one set by BM25 and by the encoders that one could take instead of the retriever."""

from pathlib import Path

import click

from effir.data.beir import open_collection
from effir.data.bm25 import bm25_search
from effir.evaluation.baselines import BM25
from effir.evaluation.metrics import as_run, evaluate_run, score_report
from effir.files import require, write_json
from effir.index.corpus_search import search_corpus
from effir.resume import resumable
from stages.baseline_encoders import open_baseline
from stages.paths import BASELINES, EVAL
from stages.program import running


@click.command()
@click.argument("name")
def main(name: str) -> None:
    """Search the evaluation set NAME by BM25 and each encoder of evaluate.baselines, exactly, and score them."""
    with running(f"baselines@{name}") as stage:
        evaluate, max_tokens = stage.params.evaluate, stage.params.retriever.max_tokens
        collection = open_collection(require(EVAL / name))
        split = collection.evaluation_split()
        # One result more than asked: a query that is a document too does not count as its own result.
        queries, depth = collection.queries(split), evaluate.depth + 1
        runs = {BM25: bm25_search(collection.documents(), queries, depth)}
        for baseline, source in evaluate.baselines.items():
            folder, encoder = open_baseline(baseline, source, max_tokens)
            entries = ((d.id, d.title, d.content) for d in collection.documents())
            kind = f"baseline-{name}-{baseline}"
            with resumable(kind, {"max_tokens": max_tokens}, [folder, Path(__file__)]) as work:
                results = search_corpus(entries, list(queries.values()), encoder, depth, work=work)
            runs[baseline] = as_run(queries, results)
        qrels, found = collection.qrels(split), {}
        for baseline, run in runs.items():
            quality = evaluate_run(run, qrels, collection.copies(split, run))
            found[baseline] = score_report(quality, evaluate.bootstrap, evaluate.seed)
        write_json(BASELINES / f"{name}.json", found)
        for baseline, report in found.items():
            stage.run.log_metrics({f"{name}/{baseline}_{key}": value for key, value in report["metrics"].items()})


if __name__ == "__main__":
    main()
