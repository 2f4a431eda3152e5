"""Measure what the retriever costs beside the base model, in one process."""

from functools import partial
from itertools import islice

import click
import torch

from effir.compress.shape import shape_of
from effir.data.beir import open_collection
from effir.evaluation.cost import Measured, bytes_on_disk, compare_speed, cost_report, one_at_a_time
from effir.files import require, write_json
from effir.retriever import build_retriever, encode_documents, encode_queries, mean_tokens, open_retriever
from stages.paths import BASE, COST, EVAL, RETRIEVER
from stages.program import running
from stages.settings import retriever_settings


@click.command()
def main() -> None:
    """Time documents and queries on the base model and the retriever in turn; count parameters, bytes and FLOPs."""
    with running("measure_cost") as stage:
        params, cost = stage.params, stage.params.cost
        name = params.data.eval[0]
        collection = open_collection(require(EVAL / name, made_by=f"download_eval@{name}"))
        documents = [document.content for document in islice(collection.documents(), cost.documents)]
        queries = list(collection.queries(collection.evaluation_split()).values())[: cost.queries]
        models = {
            "base": build_retriever(require(BASE, made_by="download"), **retriever_settings(params)),
            "cut": open_retriever(require(RETRIEVER, made_by="finetune")),
        }
        by_document = compare_speed(
            {k: partial(encode_documents, m, batch_size=cost.batch_size) for k, m in models.items()},
            documents,
            rounds=cost.rounds,
        )
        by_query = compare_speed(
            {k: one_at_a_time(partial(encode_queries, m, batch_size=1)) for k, m in models.items()},
            queries,
            rounds=cost.rounds,
        )
        base, cut = (
            Measured(shape_of(folder), bytes_on_disk(folder), by_query[key], by_document[key])
            for key, folder in (("base", BASE), ("cut", RETRIEVER))
        )
        context = mean_tokens(models["cut"], documents)
        figures = cost_report(base, cut, context=context, threads=torch.get_num_threads())
        write_json(COST, figures)
        stage.run.log_metrics({f"cost/{key}": value for key, value in figures.items()})


if __name__ == "__main__":
    main()
