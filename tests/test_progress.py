"""Progress: a bar in a terminal, and a line now and then in a log."""

import io

import pytest

from effir.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_with_total_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with progress(2000, "encode", "documents") as bar:
        bar.update(1000)
    assert "encode:  50%" in terminal.getvalue()
    assert "1000/2000" in terminal.getvalue()


def test_a_log_gets_a_line_every_thirty_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("tqdm.std.time", lambda: now)
    with progress(2000, "encode", "documents") as bar:
        bar.initial += 1500  # from an earlier run: they took no time
        bar.update(1500)
        for now in (20.0, 40.0, 60.0):  # noqa: B007  the clock reads it
            bar.update(100)
    lines = capsys.readouterr().err.splitlines()
    # At 40 s 200 of 500 are done: 300 take 60 s more. 20 s are too early for a line, 60 s too near to the last one.
    assert lines == ["encode: 1,700 of 2,000 documents, 01:00 left"]


def test_a_log_gets_nothing_of_short_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(1000), "index", "shards")) == list(range(1000))
    assert capsys.readouterr().err == ""
