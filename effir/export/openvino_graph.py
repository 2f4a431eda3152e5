"""A retriever written for the OpenVINO backend, only if it still finds what it found."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from effir.data.beir import Collection
from effir.encoding.backends import Precision, graph_of, open_encoder
from effir.encoding.encoder import TextEncoder, Vectors
from effir.encoding.openvino import open_graph, write_graph
from effir.encoding.text_reader import TextReader
from effir.errors import EffirError
from effir.evaluation.metrics import evaluate_run
from effir.files import require, write_json, writing

DEPTH = 100
"""Results a query that the guard looks at."""


@dataclass(frozen=True)
class Exported:
    """nDCG@10 on the guard's set: of the retriever in float32, and of what was written."""

    before: float
    after: float


class QualityLostError(EffirError):
    """What was made finds less than it may; nothing was written."""


def export_graph(
    retriever: Path, precision: Precision, texts: Sequence[str], dev: Collection, max_drop: float, budget: int
) -> Exported:
    """Write the OpenVINO graph into a retriever folder, where it disturbs no other reader.

    int8 takes the ranges of activations from ``texts``, some dozens. The graph is written only if nDCG@10 on ``dev``
    falls by at most ``max_drop`` (0 to 1): QualityLostError otherwise. Its split ``dev``
    is judged; where it has none, the one that is evaluated on.
    """
    require(retriever / "modules.json")
    if precision == "int8" and not texts:
        raise EffirError("int8 needs calibration texts, and there are none: name a file of texts like those to encode")
    with writing(graph_of(retriever, precision)) as draft:
        write_graph(retriever, draft, texts if precision == "int8" else ())
        graph = open_graph(draft, TextReader.open(retriever), precision, budget)
        split = "dev" if "dev" in dev.splits else dev.evaluation_split()
        before, after = (
            ndcg(each, dev, split) for each in (open_encoder(retriever, "torch", "float32", budget), graph)
        )
        exported = Exported(before, after)
        if exported.after < exported.before - max_drop:
            raise QualityLostError(
                f"in {precision} the retriever's nDCG@10 on {dev.folder} falls from {exported.before:.4f} to "
                f"{exported.after:.4f}, more than the {max_drop:g} allowed: use another precision, or allow more"
            )
        write_json(draft / "export.json", asdict(exported))
    return exported


def ndcg(encoder: TextEncoder, collection: Collection, split: str) -> float:
    """Return the mean nDCG@10 of exact search over a small collection, all of whose vectors fit in memory."""
    queries = collection.queries(split)
    documents = {document.id: document.content for document in collection.documents()}
    found = encoder.queries(list(queries.values())) @ encoder.documents(list(documents.values())).T
    run = {query: best(scores, list(documents)) for query, scores in zip(queries, found, strict=True)}
    return evaluate_run(run, collection.judgements(split)).means()["ndcg_at_10"]


def best(scores: Vectors, names: Sequence[str]) -> dict[str, float]:
    """Keep the ``DEPTH`` best of (documents,) scores, best first, by name.

    >>> best(np.array([0.5, 0.25, 0.75], np.float32), ["a", "b", "c"])
    {'c': 0.75, 'a': 0.5, 'b': 0.25}
    """
    return {names[i]: float(scores[i]) for i in np.argsort(-scores, kind="stable")[:DEPTH]}
