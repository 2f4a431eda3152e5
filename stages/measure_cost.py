"""Measure what the retriever costs beside the base model, in one process."""

from functools import partial
from itertools import islice

import click
import torch

from effir.data.beir import open_collection
from effir.encoding.backends import open_encoder
from effir.encoding.pytorch import torch_encoder
from effir.encoding.text_reader import TextReader
from effir.evaluation.speed import Measured, Served, bytes_on_disk, compare_speed, cost_report, one_at_a_time
from effir.files import require, write_json
from effir.model.retriever import build_retriever, encode_documents, encode_queries
from effir.model.shape import shape_of
from stages.paths import BASE, COST, EVAL, RETRIEVER
from stages.program import running
from stages.settings import retriever_settings


@click.command()
def main() -> None:
    """Time documents and queries on the base model and the retriever in turn; count parameters, bytes and FLOPs."""
    with running("measure_cost") as stage:
        params, cost, budget = stage.params, stage.params.cost, stage.params.index.batch_tokens
        name, served = params.data.eval[0], (params.retriever.backend, params.retriever.precision)
        collection = open_collection(require(EVAL / name))
        documents = [document.content for document in islice(collection.documents(), cost.documents)]
        queries = list(collection.queries(collection.evaluation_split()).values())[: cost.queries]
        folder = require(RETRIEVER)
        usual, base = (build_retriever(require(BASE), **retriever_settings(params)) for _ in "ab")
        encoders = {
            "base": torch_encoder(base[0].model, TextReader.of(base), "float32", budget),
            "cut": open_encoder(folder, "torch", "float32", budget),
            "served": open_encoder(folder, *served, budget),
        }
        encoders["served"].documents(documents)  # a backend may compile something for many batches
        by_document = compare_speed(
            {k: e.documents for k, e in encoders.items()}
            | {"usual": partial(encode_documents, usual, batch_size=cost.batch_size)},
            documents,
            rounds=cost.rounds,
        )
        by_query = compare_speed(
            {k: one_at_a_time(e.queries) for k, e in encoders.items()}
            | {"usual": one_at_a_time(partial(encode_queries, usual, batch_size=1))},
            queries,
            rounds=cost.rounds,
            warm_up=len(queries),  # a backend may compile something for each length
        )
        figures = cost_report(
            Measured(shape_of(BASE), bytes_on_disk(BASE), by_query["base"], by_document["base"]),
            Measured(shape_of(folder), bytes_on_disk(folder), by_query["cut"], by_document["cut"]),
            Served(by_query["usual"], by_document["usual"], by_query["served"], by_document["served"]),
            context=encoders["cut"].reader.mean_tokens(documents),
            threads=torch.get_num_threads(),
        )
        write_json(COST, figures)
        stage.run.log_metrics({f"cost/{key}": value for key, value in figures.items()})


if __name__ == "__main__":
    main()
