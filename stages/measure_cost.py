"""Measure the cost of the retriever beside the base model and the baselines, in one process."""

from functools import partial
from itertools import islice

import click
import torch

from effir.data.beir import open_collection
from effir.encoding.backends import open_encoder
from effir.encoding.encoder import TextEncoder
from effir.encoding.pytorch import torch_encoder
from effir.encoding.text_reader import TextReader
from effir.evaluation.speed import bytes_on_disk, compare_speed, cost_report, encoder_cost, one_at_a_time
from effir.files import require, write_json
from effir.model.retriever import build_retriever, encode_documents, encode_queries
from effir.model.shape import shape_of
from stages.baseline_encoders import open_timed
from stages.paths import BASE, COST, EVAL, RETRIEVER
from stages.program import running
from stages.settings import retriever_settings


@click.command()
def main() -> None:
    """Time all models in turn on documents and queries; count parameters, bytes and FLOPs."""
    with running("measure_cost") as stage:
        params, cost, budget = stage.params, stage.params.cost, stage.params.index.batch_tokens
        served = params.retriever.backend, params.retriever.precision
        collection = open_collection(require(EVAL / params.data.eval[0]))
        documents = [document.content for document in islice(collection.documents(), cost.documents)]
        queries = list(collection.queries(collection.evaluation_split()).values())[: cost.queries]
        folder = require(RETRIEVER)
        usual, base = (build_retriever(require(BASE), **retriever_settings(params)) for _ in "ab")
        encoders: dict[str, TextEncoder] = {
            "base": torch_encoder(base[0].model, TextReader.of(base), "float32", budget),
            "cut": open_encoder(folder, "torch", "float32", budget),
            "served": open_encoder(folder, *served, budget),
        }
        limit, sources = params.retriever.max_tokens, params.evaluate.baselines
        others = {name: open_timed(name, source, limit, cost.batch_size) for name, source in sources.items()}
        encoders |= {name: encoder for name, (_, encoder) in others.items()}
        encoders["served"].documents(documents)  # a backend may compile something for many batches
        usual_documents = partial(encode_documents, usual, batch_size=cost.batch_size)
        usual_queries = one_at_a_time(partial(encode_queries, usual, batch_size=1))
        ways = {k: e.documents for k, e in encoders.items()} | {"usual": usual_documents}
        by_document = compare_speed(ways, documents, rounds=cost.rounds)
        singly = {k: one_at_a_time(e.queries) for k, e in encoders.items()} | {"usual": usual_queries}
        # A backend may compile something for each length, hence a warm-up with every query.
        by_query = compare_speed(singly, queries, rounds=cost.rounds, warm_up=len(queries))
        metrics = cost_report(
            {"base": shape_of(BASE), "cut": shape_of(folder)},
            {"base": bytes_on_disk(BASE), "cut": bytes_on_disk(folder)},
            by_query,
            by_document,
            context=encoders["cut"].reader.mean_tokens(documents),
            threads=torch.get_num_threads(),
            bfloat16=encoders["served"].computes.metrics(),
        )
        for name, (place, encoder) in others.items():
            size, weights = encoder.parameters_without_embeddings(), bytes_on_disk(place)
            metrics |= encoder_cost(name, by_query, by_document, parameters=size, weights=weights)
        write_json(COST, metrics)
        stage.run.log_metrics({f"cost/{key}": value for key, value in metrics.items()})


if __name__ == "__main__":
    main()
