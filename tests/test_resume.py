"""Unfinished work is continued by its own code, settings and inputs, and by nobody else."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from effir import resume
from effir.files import write_json
from effir.resume import checkpoints_for, code_digest, resumable

ROOT = Path(__file__).parents[1]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of effir's code."""
    copy = tmp_path / "effir"
    shutil.copytree(ROOT / "effir", copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.mark.parametrize("module", ["training/losses.py", "encoding/encoder.py", "model/precision.py", "files.py"])
def test_other_code_is_another_key(package: Path, module: str) -> None:
    before = code_digest(package)
    code_digest.cache_clear()
    with (package / module).open("a") as code:
        code.write("\nTEMPERATURE = 2\n")
    assert code_digest(package) != before


def test_a_command_or_a_compiled_file_is_not_part_of_the_key(package: Path) -> None:
    before = code_digest(package)
    code_digest.cache_clear()
    (package / "cli/index.py").write_text("")
    (package / "training/__pycache__").mkdir()
    (package / "training/__pycache__/losses.cpython-311.pyc").write_bytes(b"compiled")
    assert code_digest(package) == before


def test_another_version_of_a_library_is_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    code_digest.cache_clear()
    before = checkpoints_for("finetune", {}, [])
    code_digest.cache_clear()
    monkeypatch.setattr(resume, "version", lambda name: "9.9" if name == "torch" else "1.0")
    assert checkpoints_for("finetune", {}, []) != before
    code_digest.cache_clear()


def test_two_equal_runs_at_once_share_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with resumable("finetune", {}, []) as first, resumable("finetune", {}, []) as second:
        assert (second.name, second.parent) == (f"{first.name}.2", first.parent)
    with resumable("finetune", {}, []) as again:
        assert again == first


def test_checkpoints_are_of_one_stage_its_settings_and_its_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    write_json(tmp_path / "model/config.json", {"a": 1})
    settings, inputs = {"steps": 12, "seed": 0}, [tmp_path / "model"]
    place = checkpoints_for("finetune", settings, inputs)
    assert place.parent == tmp_path.resolve() / ".effir/checkpoints"
    assert checkpoints_for("finetune", dict(reversed(settings.items())), inputs) == place
    os.utime(tmp_path / "model/config.json", (0, 0))
    assert checkpoints_for("finetune", settings, inputs) == place
    assert checkpoints_for("prune_width", settings, inputs) != place
    assert checkpoints_for("finetune", settings | {"seed": 1}, inputs) != place
    write_json(tmp_path / "model/config.json", {"a": 2})
    assert checkpoints_for("finetune", settings, inputs) != place


def test_checkpoints_go_once_the_block_that_saves_is_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    place = checkpoints_for("finetune", {}, [])
    place.mkdir(parents=True)
    with suppress(OSError), resumable("finetune", {}, []):
        raise OSError("no space left")
    assert place.is_dir()
    with resumable("finetune", {}, []) as again:
        assert again == place
    assert not place.exists()
