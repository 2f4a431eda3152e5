"""Search one set by BM25, the baseline of every retriever."""

import click

from effir.data.beir import open_collection
from effir.data.bm25 import bm25_search
from effir.evaluation.metrics import evaluate_run, summary
from effir.evaluation.significance import bootstrap_bounds
from effir.files import require, write_json
from stages.paths import BASELINES, EVAL
from stages.program import running


@click.command()
@click.argument("name")
def main(name: str) -> None:
    """Search the evaluation set NAME by BM25 and score it."""
    with running(f"bm25@{name}") as stage:
        evaluate = stage.params.evaluate
        collection = open_collection(require(EVAL / name))
        split = collection.evaluation_split()
        # One result more than asked: a query that is a document too does not count as its own result.
        run = bm25_search(collection.documents(), collection.queries(split), evaluate.depth + 1)
        quality = evaluate_run(run, collection.qrels(split), collection.copies(split, run))
        ndcg = quality.by_query("ndcg_at_10")
        metrics = summary(quality, bootstrap_bounds(list(ndcg.values()), evaluate.bootstrap, evaluate.seed))
        write_json(BASELINES / f"{name}.json", {"metrics": metrics, "ndcg_at_10": ndcg})
        stage.run.log_metrics({f"{name}/bm25_{key}": value for key, value in metrics.items()})


if __name__ == "__main__":
    main()
