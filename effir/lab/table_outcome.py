"""The result of a training on a table: the retriever, BM25 and the uncompressed model on the held-out questions."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from effir.data.beir import open_collection
from effir.evaluation.metrics import as_run, evaluate_run
from effir.evaluation.significance import PairedTest, bootstrap_bounds, paired_test
from effir.files import read_json, require, state_dir, write_json
from effir.params import Params
from effir.resume import code_digest, resumable

FULL = Path("models/full")
NDCG = "ndcg_at_10"


@dataclass(frozen=True)
class System:
    """A system's mean nDCG@10 over the held-out questions, and its 95 % interval."""

    name: str
    ndcg: float
    low: float
    high: float


@dataclass(frozen=True)
class Outcome:
    """All systems, the retriever first; ``advice`` says what they mean for a choice."""

    questions: int
    systems: tuple[System, ...]
    against_bm25: PairedTest
    against_uncompressed: PairedTest | None
    kept_share: float
    document_speedup: float
    advice: tuple[str, ...]


def outcome(name: str, params: Params) -> Outcome:
    """Read what the pipeline measured on the set ``name``, and evaluate the uncompressed retriever beside it."""
    queries, cost = read_json(Path("reports") / f"{name}-queries.json"), read_json(Path("metrics/cost.json"))
    ours = {query: scores[NDCG] for query, scores in queries.items()}
    bm25: dict[str, float] = read_json(Path("baselines") / f"{name}.json")[NDCG]
    full = uncompressed_scores(name, params) if params.finetune_full.steps else None
    scores = {"effir": ours, **({"uncompressed": full} if full else {}), "BM25": bm25}
    against_bm25 = paired_test(ours, bm25)
    return Outcome(
        questions=len(ours),
        systems=tuple(_system(system, values, params) for system, values in scores.items()),
        against_bm25=against_bm25,
        against_uncompressed=paired_test(ours, full) if full else None,
        kept_share=cost["kept_share"],
        document_speedup=cost["document_speedup"],
        advice=tuple(_advice(against_bm25, full is not None)),
    )


def uncompressed_scores(name: str, params: Params) -> dict[str, float]:
    """Return nDCG@10 of the fine-tuned uncompressed model, by question; kept until the model or the set changes."""
    kept, made_of = state_dir("tables") / f"{name}-uncompressed.json", _identity(name, params)
    if not kept.is_file() or read_json(kept)["made_of"] != made_of:
        write_json(kept, {"made_of": made_of, "scores": _evaluate(name, params, made_of)})
    return dict(read_json(kept)["scores"])


def _evaluate(name: str, params: Params, made_of: Mapping[str, Any]) -> dict[str, float]:
    """Search as the stages index and evaluate do. The backend is torch: the model has no other graph."""
    from effir.encoding.backends import open_encoder
    from effir.index.faiss_index import build_index, open_index

    collection, precision = open_collection(require(Path("data/eval") / name)), params.retriever.precision
    precision = "auto" if precision == "int8" else precision
    index, depth = state_dir("tables") / f"{name}-index", params.evaluate.depth + 1
    encoder = open_encoder(require(FULL), "torch", precision, params.index.batch_tokens)
    with resumable(f"index-{name}", made_of, [FULL]) as work:
        build_index(
            ((d.id, d.title, d.content) for d in collection.documents()),
            encoder.documents,
            index,
            factory=params.index.factory,
            work=work,
            shard_size=params.index.shard_size,
        )
    queries = collection.queries(split := collection.evaluation_split())
    results = open_index(index).search(encoder.queries(list(queries.values())), depth)
    run = as_run(queries, results)
    return evaluate_run(run, collection.qrels(split), collection.copies(split, run)).by_query(NDCG)


def _identity(name: str, params: Params) -> dict[str, Any]:
    """Name all that decides the scores: DVC's hashes of the model and the set, and the settings of the search."""
    stages = yaml.safe_load(require(Path("dvc.lock")).read_text(encoding="utf-8"))["stages"]
    hashes = {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}
    used = {path: hashes.get(path, "") for path in (str(FULL), f"data/eval/{name}")}
    search = {"factory": params.index.factory, "depth": params.evaluate.depth}
    return {**used, "precision": params.retriever.precision, **search, "code": code_digest()}


def _system(name: str, scores: Mapping[str, float], params: Params) -> System:
    values = list(scores.values())
    low, high = bootstrap_bounds(values, params.evaluate.bootstrap, params.evaluate.seed)
    return System(name, sum(values) / len(values), low, high)


def _advice(test: PairedTest, has_uncompressed: bool) -> list[str]:
    """Say whether BM25 is the better choice, by the interval of the paired difference."""
    without = "finetune_full.steps is 0, so there is no uncompressed retriever to compare with."
    if test.low > 0:
        verdict = "The retriever has higher nDCG@10 than BM25 on these questions: use the retriever."
    elif test.high < 0:
        verdict = "BM25 has higher nDCG@10 on these questions: use BM25, or train longer with more pairs."
    else:
        verdict = (
            "The retriever and BM25 are statistically indistinguishable on these questions. BM25 needs no model: "
            "prefer it, train longer, or hold out more questions."
        )
    return [verdict] if has_uncompressed else [verdict, without]
