import json
from pathlib import Path

import pytest

from effir.lab.progress import COMMITTED, KEPT, expected_seconds, position, progress_of, remember

PIPELINE = """
stages:
  download: {cmd: download, outs: [data/train, runs/download.json]}
  index:
    foreach: ${data.eval}
    do: {cmd: 'index ${item}', outs: ['indexes/${item}', 'runs/index@${item}.json']}
  register: {cmd: register, outs: [runs/register.json]}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(PIPELINE)
    return tmp_path


def write(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def test_a_record_is_newer_than_what_was_remembered_and_that_than_the_committed_file(project: Path) -> None:
    assert expected_seconds("download") is None
    write(COMMITTED, {"download": 10.0, "register": 1.0})
    assert expected_seconds("download") == 10.0
    remember("download", 20.0)
    assert (expected_seconds("download"), expected_seconds("register")) == (20.0, 1.0)
    write(Path("runs/download.json"), {"stage": "download", "seconds": 30.0})
    assert expected_seconds("download") == 30.0


def test_a_new_set_is_expected_to_take_as_long_as_another(project: Path) -> None:
    write(COMMITTED, {"index@apidocs": 100.0})
    assert expected_seconds("index@mine") == 100.0
    assert expected_seconds("download") is None


def test_what_one_stage_took_does_not_replace_what_others_took(project: Path) -> None:
    remember("download", 20.0)
    remember("register", 2.0)
    assert json.loads(KEPT.read_text()) == {"download": 20.0, "register": 2.0}


def test_a_position_counts_the_stages_of_every_set_and_sums_what_is_left(project: Path) -> None:
    write(COMMITTED, {"download": 60.0, "index@one": 100.0, "register": 4.0})
    assert position("download", ["one", "two"]) == (1, 4, 60.0 + 100.0 + 100.0 + 4.0)
    assert position("index@two", ["one", "two"]) == (3, 4, 104.0)
    assert position("register", ["one"]) == (3, 3, 4.0)


def test_a_stage_without_a_record_has_no_number(project: Path) -> None:
    assert position("other", ["one"]) == (0, 3, 0.0)


def test_the_line_of_a_stage_says_what_it_and_the_rest_take(project: Path) -> None:
    assert progress_of("download", ["one"]) == "[1/3] download"
    write(COMMITTED, {"download": 41.0, "index@one": 715.0, "register": 4.0})
    assert progress_of("download", ["one"]) == "[1/3] download: about 40 s; then about 12 min for what follows"
    assert progress_of("register", ["one"]) == "[3/3] register: about 4 s"
