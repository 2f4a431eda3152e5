"""Cost: turns taken fairly, ratios of rounds, honest units, and a report that adds up."""

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from effir.errors import EffirError
from effir.evaluation.speed import (
    Encoder,
    Timing,
    bytes_on_disk,
    compare_speed,
    cost_report,
    encoder_cost,
    one_at_a_time,
    ratio,
)


@dataclass(frozen=True)
class FakeShape:
    """1,000 parameters in embeddings, the rest in layers; 2 FLOPs a parameter and one a token of context."""

    layers: int

    def parameters(self, *, embeddings: bool) -> int:
        return self.layers + (1_000 if embeddings else 0)

    def flops_per_token(self, context: int) -> float:
        return 2 * self.layers + context


def noting(name: str, calls: list[str]) -> Encoder:
    def encode(texts: list[str]) -> None:
        calls.append(name)

    return encode


def test_candidates_take_turns_and_swap_them_after_one_warm_up_each() -> None:
    calls: list[str] = []
    timings = compare_speed({"A": noting("A", calls), "B": noting("B", calls)}, ["x", "y"], rounds=3)
    assert "".join(calls) == "AB" + "AB" + "BA" + "AB"
    assert {name: (len(timing.seconds), timing.texts) for name, timing in timings.items()} == {"A": (3, 2), "B": (3, 2)}


def test_the_warm_up_is_not_timed_and_every_round_is_its_own() -> None:
    naps = iter([0.4, 0.0, 0.2])  # warm-up, then two rounds

    def encode(texts: list[str]) -> None:
        time.sleep(next(naps))

    timing = compare_speed({"A": encode}, ["x"], rounds=2)["A"]
    assert timing.seconds[0] < 0.2 <= timing.seconds[1] < 0.4


def test_an_encoder_gets_every_text_and_cannot_spoil_the_next_ones() -> None:
    got: list[list[str]] = []

    def greedy(texts: list[str]) -> None:
        got.append(list(texts))
        texts.clear()

    compare_speed({"A": greedy, "B": greedy}, ("x", "y"), rounds=1)
    assert got == [["x", "y"]] * 4


def test_the_warm_up_takes_two_texts_and_the_rounds_take_all() -> None:
    got: list[list[str]] = []
    compare_speed({"A": got.append}, ["x", "y", "z"], rounds=2)
    assert got == [["x", "y"], ["x", "y", "z"], ["x", "y", "z"]]


def test_one_at_a_time_hands_over_single_texts() -> None:
    got: list[list[str]] = []
    one_at_a_time(got.append)(["x", "y", "z"])
    assert got == [["x"], ["y"], ["z"]]


@pytest.mark.parametrize(("texts", "rounds"), [([], 3), (["x"], 0)])
def test_a_timing_of_nothing_is_refused(texts: list[str], rounds: int) -> None:
    with pytest.raises(EffirError, match="cannot be timed: ask for 1 or more of both"):
        compare_speed({"A": noting("A", [])}, texts, rounds=rounds)


def test_the_rate_is_of_the_median_round() -> None:
    assert Timing((4.0, 1.0, 2.0), texts=10).texts_per_second == 5.0  # 10 in 2 s


def test_the_speedup_is_of_rounds_that_ran_side_by_side() -> None:
    # A neighbour slows the second round fivefold for both: by rounds the ratio stays 2; of unpaired extremes it is not.
    assert ratio((2.0, 10.0, 2.2), (1.0, 5.0, 1.0)) == {"median": 2.0, "low": 2.0, "high": 2.2}
    with pytest.raises(ValueError, match="argument"):
        ratio((2.0, 2.0), (1.0,))


def test_bytes_on_disk_adds_up_what_matches_at_every_depth(tmp_path: Path) -> None:
    (tmp_path / "1_Dense").mkdir()
    (tmp_path / "model-1.safetensors").write_bytes(b"x" * 100)
    (tmp_path / "1_Dense" / "model.safetensors").write_bytes(b"x" * 20)
    (tmp_path / "tokenizer.json").write_bytes(b"x" * 3)
    assert bytes_on_disk(tmp_path) == 120
    assert bytes_on_disk(tmp_path, "*.json") == 3


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EffirError, match=r"nowhere holds no \*\.safetensors: name a folder with the weights"):
        bytes_on_disk(tmp_path / "nowhere")


def test_the_report_compares_the_cut_with_the_base() -> None:
    queries = {"base": (4.0, 4.0, 4.0), "cut": (2.0, 1.0, 4.0), "usual": (8.0,), "served": (1.0,)}
    documents = {"base": (3.0, 3.0, 6.0), "cut": (1.5, 2.0, 3.0), "usual": (9.0,), "served": (3.0,)}
    report = cost_report(
        {"base": FakeShape(4_000), "cut": FakeShape(2_400)},
        {"base": 20_000, "cut": 13_600},
        {name: Timing(seconds, 8) for name, seconds in queries.items()},
        {name: Timing(seconds, 9) for name, seconds in documents.items()},
        context=200,
        threads=2,
        bfloat16={"served_bfloat16": 0.0, "bfloat16_speedup": 0.55},
    )
    assert report == {
        "parameters": 3_400,
        "parameters_without_embeddings": 2_400,
        "bytes": 13_600,
        "flops_per_token": 5_000,  # 2 * 2,400 + 200
        "queries_per_second": 4.0,  # 8 in 2 s, the median
        "documents_per_second": 4.5,  # 9 in 2 s
        "parameters_base": 5_000,
        "parameters_base_without_embeddings": 4_000,
        "bytes_base": 20_000,
        "flops_per_token_base": 8_200,  # 2 * 4,000 + 200
        "queries_per_second_base": 2.0,
        "documents_per_second_base": 3.0,
        "kept_share": 0.6,
        "flops_speedup": 1.64,
        "query_speedup": 2.0,  # of 2, 4, 1
        "query_speedup_low": 1.0,
        "query_speedup_high": 4.0,
        "document_speedup": 2.0,  # of 2, 1.5, 2
        "document_speedup_low": 1.5,
        "document_speedup_high": 2.0,
        "served_queries_per_second": 8.0,
        "served_documents_per_second": 3.0,
        "served_query_speedup": 8.0,
        "served_query_speedup_low": 8.0,
        "served_query_speedup_high": 8.0,
        "served_document_speedup": 3.0,
        "served_document_speedup_low": 3.0,
        "served_document_speedup_high": 3.0,
        "threads": 2,
        "served_bfloat16": 0.0,
        "bfloat16_speedup": 0.55,
    }


def test_a_baseline_is_compared_with_the_base_round_by_round() -> None:
    queries = {"base": Timing((4.0, 4.0, 8.0), 8), "small": Timing((0.5, 1.0, 1.0), 8)}
    documents = {"base": Timing((6.0, 3.0, 9.0), 9), "small": Timing((1.0, 1.0, 3.0), 9)}
    assert encoder_cost("small", queries, documents, parameters=500, weights=2_000) == {
        "small_queries_per_second": 8.0,  # 8 in 1 s, the median
        "small_documents_per_second": 9.0,
        "small_query_speedup": 8.0,  # of 8, 4, 8
        "small_query_speedup_low": 4.0,
        "small_query_speedup_high": 8.0,
        "small_document_speedup": 3.0,  # of 6, 3, 3
        "small_document_speedup_low": 3.0,
        "small_document_speedup_high": 6.0,
        "small_parameters_without_embeddings": 500,
        "small_bytes": 2_000,
    }
