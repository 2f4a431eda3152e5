"""One run of the pipeline as plain data: its params, metrics, scores of queries, cost and shape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from effir.params import Scalar


@dataclass(frozen=True)
class Variant:
    """One run of the pipeline: a DVC experiment, a commit, the working tree or an MLflow run.

    ``params`` are flat (``prune.width``). ``quality``: set to the content of ``metrics/<set>.json``; ``scores``: set
    to query id to nDCG@10; ``data``: set to the hash of its corpus, queries and qrels, empty if unknown; ``cost``: the
    content of ``metrics/cost.json``. ``layers``: if known, the ``dropped`` sublayers in order, as (sublayer, layer),
    and the ``widths`` of the MLPs. ``losses``: each training stage to its loss, as (step, mean over the steps since the
    last point). ``source`` says where it was read, ``notes`` what to doubt.
    """

    name: str
    params: Mapping[str, Scalar]
    quality: Mapping[str, Mapping[str, float]]
    scores: Mapping[str, Mapping[str, float]]
    cost: Mapping[str, float]
    data: Mapping[str, str]
    layers: Mapping[str, Any] = field(default_factory=dict)
    losses: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    source: str = ""
    notes: tuple[str, ...] = ()
