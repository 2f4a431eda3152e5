"""What `auto` computes in: who must win by how much, what is kept, and where the decision is said."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path

import pytest
from transformers import LlamaConfig

from effir.model.auto_precision import FEWEST, USUAL, Arithmetic, Decision, Product, chosen, decide, product_of

Candidates = Callable[[Product], Mapping[Arithmetic, Callable[[], float]]]


def taking(float32: float, bfloat16: float, asked: list[Product] | None = None) -> Candidates:
    """Products that take so long in each type; ``asked`` collects what was to be measured."""

    def candidates(product: Product) -> Mapping[Arithmetic, Callable[[], float]]:
        if asked is not None:
            asked.append(product)
        return {"float32": lambda: float32, "bfloat16": lambda: bfloat16}

    return candidates


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path / ".effir/precision"


@pytest.mark.parametrize(
    ("float32", "bfloat16", "wins"),
    [
        (0.54, 1.0, "float32"),  # a Xeon with AVX512-BF16 and without AMX: 0.52 to 0.57 of float32's speed
        (1.7, 1.0, "bfloat16"),  # Zen 4
        (5.5, 1.0, "bfloat16"),  # AMX
        (1.0, 1.0, "bfloat16"),  # a tie keeps what the processor says that it can
        (1.0, 1.19, "bfloat16"),  # float32 wins, but by less than 1.2
        (1.0, 1.21, "float32"),
    ],
)
def test_float32_must_win_by_a_fifth(float32: float, bfloat16: float, wins: str) -> None:
    found = chosen(taking(float32, bfloat16)(USUAL))
    assert found == Decision(wins, pytest.approx(float32 / bfloat16, abs=1e-3))  # type: ignore[arg-type]


def test_rounds_that_something_else_slowed_do_not_count() -> None:
    def slowed(seconds: float, times: Iterator[int]) -> Callable[[], float]:
        return lambda: seconds * (1 if next(times) % 3 == 1 else 9)  # the first call, too

    found = chosen({"float32": slowed(0.001, count()), "bfloat16": slowed(0.002, count(1))})
    assert found == Decision("float32", 0.5)


def test_a_measurement_ends_after_a_tenth_of_a_second_or_30_rounds() -> None:
    for seconds, rounds in ((1.0, FEWEST), (0.001, 30)):
        calls: list[float] = []
        chosen({"float32": lambda: calls.append(1) or seconds, "bfloat16": lambda: 0.0})  # type: ignore[func-returns-value]  # noqa: B023
        assert len(calls) == 1 + rounds


def test_the_first_decision_holds_for_the_machine_and_is_measured_once(state: Path) -> None:
    asked: list[Product] = []
    first = decide("torch 1", USUAL, taking(0.82, 1.0, asked))
    # Borderline: the next measurement would say otherwise.
    assert (first.arithmetic, decide("torch 1", USUAL, taking(0.84, 1.0, asked))) == ("float32", first)
    assert (asked, len(list(state.iterdir()))) == ([USUAL], 1)


def test_another_version_or_size_is_measured_anew(state: Path) -> None:
    decide("torch 1", USUAL, taking(1.0, 2.0))
    assert decide("torch 2", USUAL, taking(2.0, 1.0)).arithmetic == "bfloat16"
    assert decide("torch 1", (4096, 4096), taking(2.0, 1.0)).arithmetic == "bfloat16"
    assert len(list(state.iterdir())) == 3


def test_another_machine_with_the_same_folder_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    decide("torch 1", USUAL, taking(1.0, 2.0))
    monkeypatch.setattr("effir.model.auto_precision.machine", lambda: "another processor")
    assert decide("torch 1", USUAL, taking(2.0, 1.0)).arithmetic == "bfloat16"


@pytest.mark.parametrize("damaged", ["", "{}", "[]", '{"decision": {"arithmetic": 1, "odd": 2}}'])
def test_a_damaged_decision_is_measured_again(state: Path, damaged: str) -> None:
    decide("torch 1", USUAL, taking(1.0, 2.0))
    (kept,) = state.iterdir()
    kept.write_text(damaged)
    assert decide("torch 1", USUAL, taking(1.0, 2.0)) == Decision("float32", 0.5)
    assert json.loads(kept.read_text())["decision"]["arithmetic"] == "float32"


def test_without_a_state_folder_the_decision_is_made_all_the_same(state: Path) -> None:
    state.parent.write_text("a file where the folder should be")
    assert decide("torch 1", USUAL, taking(1.0, 2.0)) == Decision("float32", 0.5)


def test_a_decision_is_logged_whether_it_was_measured_or_kept(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="effir"):
        for _ in "ab":
            decide("torch 1", USUAL, taking(1.0, 2.0))
    said = (
        "auto computes in float32: torch 1 multiplies 1536 x 576 matrices 0.50 times as fast in bfloat16 as in float32 "
        "on this processor"
    )
    assert caplog.messages == [said, said]


def test_the_size_is_that_of_the_mlp_within_what_can_be_timed() -> None:
    assert product_of(LlamaConfig(hidden_size=576, intermediate_size=1536)) == (1536, 576)
    assert product_of({"hidden_size": 576, "intermediate_size": 1536, "mlp_widths": [8, 0]}) == (1536, 576)
    assert product_of({"hidden_size": 16, "intermediate_size": 14336}) == (4096, 512)
    assert product_of({}) == USUAL
