"""The sentence of `effir compare` about BM25 and small encoders; expected choices follow from the scores given here."""

import json
from pathlib import Path
from typing import Any

from effir.evaluation.variant import Variant
from effir.lab.baselines import advice, small_encoders
from effir.lab.comparison import compare

QUERIES = [f"q{i}" for i in range(10)]


def variant(name: str, ndcg: float, bm25: float, speedup: float = 2.0) -> Variant:
    quality = {"apidocs": {"ndcg_at_10": ndcg, "bm25_ndcg_at_10": bm25}}
    scores = {"apidocs": dict.fromkeys(QUERIES, ndcg)}
    return Variant(name, {}, quality, scores, {"document_speedup": speedup}, {"apidocs": "abc"})


def encoder(scores: dict[str, float], speedup: float = 9.0) -> dict[str, Any]:
    ndcg = sum(scores.values()) / len(scores)
    quality = {"apidocs": {"ndcg_at_10": ndcg}}
    return {"name": "small", "quality": quality, "scores": {"apidocs": scores}, "document_speedup": {"median": speedup}}


def said(*variants: Variant, encoders: tuple[dict[str, Any], ...] = ()) -> str:
    (sentence,) = advice(compare(variants), encoders)
    return sentence


def test_the_best_variant_is_the_choice_if_bm25_is_lower() -> None:
    found = said(variant("a", 0.5, 0.4), variant("b", 0.6, 0.4))
    assert found == "On apidocs, b has nDCG@10 0.600, BM25 0.400: b is the better choice."


def test_bm25_is_the_choice_if_no_variant_has_a_higher_ndcg() -> None:
    assert said(variant("a", 0.5, 0.7)).endswith("BM25 0.700: BM25 would be the better choice.")


def test_a_small_encoder_is_the_choice_if_it_is_significantly_better_or_as_good_and_faster() -> None:
    ours = variant("a", 0.5, 0.4)
    better = encoder(dict.fromkeys(QUERIES, 0.75))  # ten equal differences: p = 2 / 2^10
    assert said(ours, encoders=(better,)).endswith("small 0.750: small would be the better choice.")
    mixed = {query: 0.75 if i % 2 else 0.25 for i, query in enumerate(QUERIES)}  # its mean is 0.5: p = 1
    assert "indistinguishable (p = 1) and encodes documents 9.0 times" in said(ours, encoders=(encoder(mixed),))
    assert said(ours, encoders=(encoder(mixed, speedup=1.5),)).endswith("a is the better choice.")
    worse = encoder(dict.fromkeys(QUERIES, 0.25))
    assert said(ours, encoders=(worse,)).endswith("BM25 0.400 and small 0.250: a is the better choice.")


def test_an_encoder_of_other_queries_is_not_compared() -> None:
    other = encoder({"other": 1.0})
    assert said(variant("a", 0.5, 0.4), encoders=(other,)).endswith("BM25 0.400: a is the better choice.")


def test_without_any_baseline_nothing_is_said() -> None:
    bare = Variant("a", {}, {"apidocs": {"ndcg_at_10": 0.5}}, {}, {}, {})
    assert advice(compare([bare]), []) == []


def test_small_encoders_are_read_where_they_were_measured(tmp_path: Path) -> None:
    path = tmp_path / "small_encoders.json"
    assert small_encoders(path) == []
    path.write_text(json.dumps({"rows": [encoder({"q": 1.0})]}))
    assert [row["name"] for row in small_encoders(path)] == ["small"]
    assert {row["name"] for row in small_encoders()} == {"all-MiniLM-L6-v2"}
