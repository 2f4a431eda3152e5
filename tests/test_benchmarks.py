"""What benchmarks say of memory; how they split a run is in their doctests."""

import sys

import psutil
import pytest

from benchmarks.processes import apart, forget_peak, peak_memory

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="benchmarks ask Linux for the peak"), pytest.mark.slow]
BALLAST = 400_000_000


def test_the_peak_is_in_bytes_and_stays_until_it_is_forgotten() -> None:
    ballast = bytearray(b"\x01") * BALLAST
    held = psutil.Process().memory_info().rss
    assert len(ballast) == BALLAST <= held
    del ballast
    assert 0.95 * held <= peak_memory() < psutil.virtual_memory().total
    forget_peak()
    assert peak_memory() < held - BALLAST / 2


def test_a_process_apart_has_a_peak_of_its_own() -> None:
    ballast = bytearray(b"\x01") * BALLAST
    assert apart(peak_memory) < len(ballast) <= peak_memory()
