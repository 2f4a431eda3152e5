"""One run of the pipeline as plain data: its params, metrics, scores of queries, cost and shape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from effir.params import Scalar


@dataclass(frozen=True)
class Variant:
    """One run of the pipeline: a DVC experiment, a commit, the working tree or an MLflow run.

    ``params`` are flat (``prune.width``). ``quality``: set to the figures of ``metrics/<set>.json``; ``scores``: set to
    query id to nDCG@10; ``data``: set to the hash of its corpus, queries and judgements, empty where it is unknown;
    ``cost``: the figures of ``metrics/cost.json``. ``layers``: the sublayers ``dropped``, as (sublayer, layer), the
    first first, and the ``widths`` of the MLPs, where they are known. ``losses``: a stage that trained to its loss, as
    (step, mean over the steps since the one before). ``source`` says where it was read, ``notes`` what to doubt.
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
