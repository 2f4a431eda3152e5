"""Search one set with its queries and score the results as BEIR does."""

import click

from effir.data.beir import open_collection
from effir.encoding.backends import open_encoder
from effir.evaluation.baselines import compare_with
from effir.evaluation.metrics import as_run, evaluate_run, score_report
from effir.files import read_json, require, write_json
from effir.index.faiss_index import open_index
from stages.paths import BASELINES, EVAL, INDEXES, METRICS, REPORTS, RETRIEVER
from stages.program import running


@click.command()
@click.argument("name")
def main(name: str) -> None:
    """Search the evaluation set NAME; score nDCG, recall, MRR and MAP of each query, and their means."""
    with running(f"evaluate@{name}") as stage:
        evaluate, retriever = stage.params.evaluate, stage.params.retriever
        collection = open_collection(require(EVAL / name))
        index, baselines = open_index(require(INDEXES / name)), read_json(BASELINES / f"{name}.json")
        split = collection.evaluation_split()
        queries, budget = collection.queries(split), stage.params.index.batch_tokens
        encoder = open_encoder(require(RETRIEVER), retriever.backend, retriever.precision, budget)
        # One result more than asked: a query that is a document too does not count as its own result.
        results = index.search(encoder.queries(list(queries.values())), evaluate.depth + 1)
        run = as_run(queries, results)
        quality = evaluate_run(run, collection.qrels(split), collection.copies(split, run))
        ours = score_report(quality, evaluate.bootstrap, evaluate.seed)
        metrics = ours["metrics"]
        metrics |= compare_with(ours["ndcg_at_10"], baselines, evaluate.bootstrap, evaluate.seed)
        cut = list(encoder.reader.cut((document.content for document in collection.documents()), "document"))
        metrics["documents_cut"] = sum(cut) / len(cut)
        if any(cut):
            said = f"{metrics['documents_cut']:.1%} of the documents are longer than retriever.max_tokens"
            click.echo(f"{name}: {said} ({encoder.reader.max_tokens}): only their beginnings are searched", err=True)
        write_json(REPORTS / f"{name}-queries.json", quality.scores)
        write_json(METRICS / f"{name}.json", metrics)
        stage.run.log_metrics({f"{name}/{key}": value for key, value in metrics.items()})


if __name__ == "__main__":
    main()
