import json
from pathlib import Path
from typing import Any

import pytest

from effir.lab.progress import COMMITTED, KEPT, expected_seconds, progress_of, remember

PIPELINE = """
stages:
  download: {cmd: download, params: [model], outs: [data/train, runs/download.json]}
  index:
    foreach: ${data.eval}
    do: {cmd: 'index ${item}', params: [index.factory], outs: ['indexes/${item}', 'runs/index@${item}.json']}
  finetune: {cmd: finetune, params: [finetune], outs: [models/finetuned, runs/finetune.json]}
  register: {cmd: register, outs: [models/registered]}
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(PIPELINE)
    return tmp_path


def params(steps: int = 60, sets: tuple[str, ...] = ("one",), threads: int = 0) -> dict[str, dict[str, Any]]:
    """Settings of a run; no stage reads ``index.threads``."""
    index = {"factory": "Flat", "threads": threads}
    return {"model": {"base": "a"}, "data": {"eval": list(sets)}, "index": index, "finetune": {"steps": steps}}


def test_a_stage_is_expected_to_take_what_it_took_last_with_the_same_settings() -> None:
    assert expected_seconds("finetune", params()) is None
    remember("finetune", params(60), 300.0)
    remember("finetune", params(4), 9.0)
    assert (expected_seconds("finetune", params(60)), expected_seconds("finetune", params(4))) == (300.0, 9.0)
    assert expected_seconds("finetune", params(180)) is None
    assert expected_seconds("finetune", params(60, threads=4)) == 300.0
    remember("finetune", params(60), 310.0)
    assert expected_seconds("finetune", params(60)) == 310.0


def test_what_this_machine_took_counts_more_than_the_committed_file() -> None:
    remember("download", params(), 20.0)
    remember("finetune", params(), 300.0)
    COMMITTED.parent.mkdir()
    committed = {key: 2 * seconds for key, seconds in json.loads(KEPT.read_text()).items()}
    COMMITTED.write_text(json.dumps(committed))
    assert expected_seconds("download", params()) == 20.0
    KEPT.unlink()
    assert expected_seconds("download", params()) == 40.0


def test_a_new_set_is_expected_to_take_as_long_as_another() -> None:
    remember("index@apidocs", params(), 100.0)
    assert expected_seconds("index@mine", params()) == 100.0


def test_the_line_of_a_stage_counts_the_stages_of_every_set_and_sums_what_is_left() -> None:
    two = params(sets=("one", "two"))
    assert progress_of("download", two) == "[1/4] download"
    for stage, seconds in (("download", 60.0), ("index@one", 100.0)):
        remember(stage, two, seconds)
    assert progress_of("download", two) == "[1/4] download: about 60 s; then at least 3 min for what follows"
    remember("finetune", two, 400.0)
    assert progress_of("download", two) == "[1/4] download: about 60 s; then about 10 min for what follows"
    assert progress_of("index@two", two) == "[3/4] index@two: about 2 min; then about 7 min for what follows"
    assert progress_of("finetune", two) == "[4/4] finetune: about 7 min"


def test_a_stage_without_a_record_has_no_line() -> None:
    assert progress_of("register", params()) == ""
