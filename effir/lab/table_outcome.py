"""The result of a training on a table: retriever, baselines and uncompressed model on the held-out questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from effir.data.beir import open_collection
from effir.evaluation.baselines import title
from effir.evaluation.metrics import as_run, evaluate_run
from effir.evaluation.significance import PairedTest, bootstrap_bounds, paired_test
from effir.files import read_json, require, state_dir, write_json
from effir.lab.baselines import Baseline, baselines_of, better_choice, reason
from effir.params import Params
from effir.resume import code_digest, resumable

FULL = Path("models/full")
NDCG = "ndcg_at_10"


@dataclass(frozen=True)
class System:
    """A system's mean nDCG@10 over the held-out questions, and its 95 % interval.

    ``test`` is of the retriever against it. ``document_speedup`` is over the uncompressed model; None if not timed.
    """

    name: str
    ndcg: float
    low: float
    high: float
    test: PairedTest | None = None
    document_speedup: float | None = None


@dataclass(frozen=True)
class Outcome:
    """All systems, the retriever first; ``advice`` says what they mean for a choice."""

    questions: int
    systems: tuple[System, ...]
    kept_share: float
    advice: tuple[str, ...]


def outcome(name: str, params: Params) -> Outcome:
    """Read what the pipeline measured on the set ``name``, and evaluate the uncompressed retriever beside it."""
    queries, cost = read_json(Path("reports") / f"{name}-queries.json"), read_json(Path("metrics/cost.json"))
    ours = {query: scores[NDCG] for query, scores in queries.items()}
    full = uncompressed_scores(name, params) if params.finetune_full.steps else None
    others = {"uncompressed": full} if full else {}
    others |= {title(key): found[NDCG] for key, found in read_json(Path("baselines") / f"{name}.json").items()}
    systems = [
        _system("effir", ours, params, None, cost["document_speedup"]),
        *(_system(key, s, params, paired_test(ours, s), _speedup(key, cost)) for key, s in others.items()),
    ]
    baselines = baselines_of(read_json(Path("metrics") / f"{name}.json"), cost)
    advice = tuple(_advice(baselines, full is not None))
    return Outcome(len(ours), tuple(systems), cost["kept_share"], advice)


def _speedup(system: str, cost: Mapping[str, float]) -> float | None:
    return 1.0 if system == "uncompressed" else cost.get(f"{system}_document_speedup")


def uncompressed_scores(name: str, params: Params) -> dict[str, float]:
    """Return nDCG@10 of the fine-tuned uncompressed model, by question; kept until the model or the set changes."""
    kept, made_of = state_dir("tables") / f"{name}-uncompressed.json", _identity(name, params)
    if not kept.is_file() or read_json(kept)["made_of"] != made_of:
        write_json(kept, {"made_of": made_of, "scores": _evaluate(name, params, made_of)})
    return dict(read_json(kept)["scores"])


def _evaluate(name: str, params: Params, made_of: Mapping[str, Any]) -> dict[str, float]:
    """Search as the stages index and evaluate do. The backend is torch: the model has no other graph."""
    from effir.encoding.backends import open_encoder
    from effir.index.corpus_search import search_corpus

    collection, precision = open_collection(require(Path("data/eval") / name)), params.retriever.precision
    precision = "auto" if precision == "int8" else precision
    encoder = open_encoder(require(FULL), "torch", precision, params.index.batch_tokens)
    queries = collection.queries(split := collection.evaluation_split())
    with resumable(f"index-{name}", made_of, [FULL]) as work:
        results = search_corpus(
            ((d.id, d.title, d.content) for d in collection.documents()),
            list(queries.values()),
            encoder,
            params.evaluate.depth + 1,
            work=work,
            factory=params.index.factory,
            shard_size=params.index.shard_size,
        )
    run = as_run(queries, results)
    return evaluate_run(run, collection.qrels(split), collection.copies(split, run)).by_query(NDCG)


def _identity(name: str, params: Params) -> dict[str, Any]:
    """Name all that decides the scores: DVC's hashes of the model and the set, and the settings of the search."""
    stages = yaml.safe_load(require(Path("dvc.lock")).read_text(encoding="utf-8"))["stages"]
    hashes = {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}
    used = {path: hashes.get(path, "") for path in (str(FULL), f"data/eval/{name}")}
    search = {"factory": params.index.factory, "depth": params.evaluate.depth}
    return {**used, "precision": params.retriever.precision, **search, "code": code_digest()}


def _system(
    name: str, scores: Mapping[str, float], params: Params, test: PairedTest | None, speedup: float | None
) -> System:
    values = list(scores.values())
    low, high = bootstrap_bounds(values, params.evaluate.bootstrap, params.evaluate.seed)
    return System(name, sum(values) / len(values), low, high, test, speedup)


def _advice(baselines: Sequence[Baseline], has_uncompressed: bool) -> list[str]:
    """Say whether a baseline is the better choice, by the intervals of the paired differences."""
    chosen = better_choice(baselines)
    if chosen:
        fix = "train longer, with more pairs" if chosen.better else "train longer, or hold out more questions"
        yours = f"On these questions {chosen.name} is the better choice, because {reason(chosen)}: take it, or {fix}."
    else:
        beaten = " and ".join(each.name for each in baselines if not each.alike)
        alike = " and ".join(each.name for each in baselines if each.alike)
        parts = [f"has higher nDCG@10 than {beaten}"] if beaten else []
        parts += [f"is statistically indistinguishable from {alike}, but faster"] if alike else []
        yours = f"The retriever {' and '.join(parts)} on these questions: use the retriever."
    without = "finetune_full.steps is 0, so there is no uncompressed retriever to compare with."
    return [yours] if has_uncompressed else [yours, without]
