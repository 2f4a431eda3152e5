from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from effir.model import precision
from effir.model.auto_precision import Decision, Product
from effir.model.precision import arithmetic, decision, uses_bfloat16


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "_multiplies_natively", lambda: True)
    precision._measured.cache_clear()
    yield  # type: ignore[misc]
    precision._measured.cache_clear()


def measuring(float32: float, bfloat16: float) -> Callable[[Product], object]:
    return lambda product: {"float32": lambda: float32, "bfloat16": lambda: bfloat16}


def test_a_precision_that_is_asked_for_is_used_on_any_hardware() -> None:
    assert uses_bfloat16("bfloat16") is True
    assert uses_bfloat16("float32") is False


def test_auto_is_float32_where_that_is_faster_though_bfloat16_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_candidates", measuring(0.55, 1.0))
    assert decision("auto", LlamaConfig()) == Decision("float32", 0.55)
    assert arithmetic("auto") is torch.float32


def test_auto_is_float32_without_a_measurement_where_bfloat16_is_not_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_candidates", lambda product: pytest.fail("measured"))
    monkeypatch.setattr(precision, "_multiplies_natively", lambda: False)
    assert decision("auto") == Decision("float32")


def test_auto_is_not_measured_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_candidates", lambda product: pytest.fail("measured"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for able, found in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, able=able: able)
        assert decision("auto").arithmetic == found


def test_measuring_leaves_threads_and_random_numbers_as_they_are() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    found = precision._candidates((512, 512))
    assert all(0 <= run() < 1 for run in found.values())
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
