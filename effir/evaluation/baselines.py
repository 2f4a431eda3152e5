"""The baselines of a set, BM25 and the encoders of evaluate.baselines: their names, and the differences to them."""

from collections.abc import Mapping
from typing import Any

from effir.evaluation.significance import paired_test

BM25 = "bm25"
NDCG = "ndcg_at_10"


def compare_with(ours: Mapping[str, float], baselines: Mapping[str, Any], samples: int, seed: int) -> dict[str, float]:
    """Return ``<name>_ndcg_at_10`` of each baseline, and ``vs_<name>``: the retriever's nDCG@10 less the baseline's.

    ``ours`` is query id to nDCG@10, ``baselines`` the content of ``baselines/<set>.json``. ``vs_<name>_low`` and
    ``_high`` bound the difference (95 %, bootstrap over queries). EffirError if the two do not score the same queries.
    """
    found: dict[str, float] = {}
    for name, theirs in baselines.items():
        test = paired_test(ours, theirs[NDCG], samples=samples, seed=seed)
        found[f"{name}_{NDCG}"] = theirs["metrics"][NDCG]
        found |= {f"vs_{name}": test.difference, f"vs_{name}_low": test.low, f"vs_{name}_high": test.high}
    return found


def baselines_in(*metrics: Mapping[str, float]) -> list[str]:
    """List the baselines that the contents of several ``metrics/<set>.json`` name, each once.

    >>> baselines_in({"ndcg_at_10": 0.6, "bm25_ndcg_at_10": 0.5}, {"bm25_ndcg_at_10": 0.5, "small_ndcg_at_10": 0.7})
    ['bm25', 'small']
    """
    found = (key.removesuffix(f"_{NDCG}") for each in metrics for key in each if key.endswith(f"_{NDCG}"))
    return list(dict.fromkeys(found))


def title(baseline: str) -> str:
    """Return the name of a baseline for a reader.

    >>> title("bm25"), title("all-MiniLM-L6-v2")
    ('BM25', 'all-MiniLM-L6-v2')
    """
    return "BM25" if baseline == BM25 else baseline
