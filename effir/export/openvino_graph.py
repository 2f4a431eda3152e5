"""Export a retriever for the OpenVINO backend, if its quality stays within a limit."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from effir.data.beir import Collection
from effir.encoding.backends import Precision, graph_of, open_encoder
from effir.encoding.encoder import TextEncoder
from effir.encoding.library import LibraryEncoder
from effir.encoding.openvino import open_graph, write_graph
from effir.encoding.text_reader import TextReader
from effir.errors import EffirError
from effir.evaluation.metrics import evaluate_run
from effir.files import write_json, writing
from effir.progress import progress

DEPTH = 100  # results for each query from which the guard computes nDCG@10


@dataclass(frozen=True)
class Exported:
    """nDCG@10 on the dev set: of the retriever in float32, and of the graph."""

    before: float
    after: float


class QualityLostError(EffirError):
    """The export loses more nDCG@10 than allowed; nothing was written."""


def export_graph(
    retriever: Path, precision: Precision, texts: Sequence[str], dev: Collection, max_drop: float, budget: int
) -> Exported:
    """Write the OpenVINO graph into a subfolder of a retriever, which other libraries ignore.

    int8 needs some dozens of calibration ``texts`` for the ranges of activations. The graph is written only if nDCG@10
    on ``dev`` falls by at most ``max_drop`` (0 to 1): QualityLostError otherwise. The split is ``dev`` if there is one,
    else the evaluation split. EffirError for a model that effir's own encoder does not run.
    """
    exact = open_encoder(retriever, "torch", "float32", budget)
    if isinstance(exact, LibraryEncoder):
        raise EffirError(f"{retriever} cannot be exported, {exact.about}: export a causal decoder")
    if precision == "int8" and not texts:
        raise EffirError("int8 needs calibration texts, and there are none: give a file of texts like those to encode")
    with writing(graph_of(retriever, precision)) as draft:
        write_graph(retriever, draft, texts if precision == "int8" else ())
        graph = open_graph(draft, TextReader.open(retriever), precision, budget)
        split = "dev" if "dev" in dev.splits else dev.evaluation_split()
        exported = Exported(ndcg(exact, dev, split), ndcg(graph, dev, split))
        if exported.after < exported.before - max_drop:
            raise QualityLostError(
                f"in {precision} the retriever's nDCG@10 on {dev.folder} falls from {exported.before:.4f} to "
                f"{exported.after:.4f}, more than the {max_drop:g} allowed: use another precision or a larger limit"
            )
        write_json(draft / "export.json", asdict(exported))
    return exported


def ndcg(encoder: TextEncoder, collection: Collection, split: str) -> float:
    """Return the mean nDCG@10 of exact search over a small collection, whose vectors fit into memory."""
    queries = collection.queries(split)
    documents = {document.id: document.content for document in collection.documents()}
    with progress(len(documents), "encode", "documents") as bar:
        vectors = encoder.documents(list(documents.values()), bar.update)
    found = encoder.queries(list(queries.values())) @ vectors.T
    names, best = list(documents), np.argsort(-found, axis=1, kind="stable")[:, :DEPTH]
    run = {query: {names[i]: float(found[row, i]) for i in best[row]} for row, query in enumerate(queries)}
    return evaluate_run(run, collection.qrels(split), collection.copies(split, run)).means()["ndcg_at_10"]
