import json
import subprocess
from pathlib import Path

import pytest

from effir.tracking.provenance import GitState, Origin, git_state, licences_of


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout with one commit of code, params and a report."""
    for name in ("effir/one.py", "params.yaml", "reports/one.json", "dvc.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@test", "commit", "--quiet", "-m", "one")
    return tmp_path


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    assert git_state(checkout) == GitState(git(checkout, "rev-parse", "HEAD").strip(), ())
    assert not git_state(checkout).is_dirty


def test_changed_and_new_code_makes_it_dirty_params_and_reports_do_not(checkout: Path) -> None:
    for name in ("params.yaml", "reports/one.json", "reports/two.json", "dvc.lock"):
        (checkout / name).write_text("new")
    assert not git_state(checkout).is_dirty
    (checkout / "dvc.yaml").write_text("new")
    (checkout / "effir/two.py").write_text("new")
    assert git_state(checkout).changed == ("dvc.yaml", "effir/two.py")


def test_outside_git_there_is_no_revision(tmp_path: Path) -> None:
    assert git_state(tmp_path) == GitState("none", ())


def test_licences_are_those_that_sources_name(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    sources = [{"licence": "MIT"}, {"licence": "Apache-2.0"}, {"licence": "MIT"}, {"name": "?"}]
    (tmp_path / "train/SOURCES.json").write_text(json.dumps(sources))
    (tmp_path / "scifact").mkdir()
    found = licences_of([tmp_path / "train", tmp_path / "scifact"])
    assert found == {"train": ["Apache-2.0", "MIT", "not stated"], "scifact": ["not stated"]}


def test_an_origin_is_flat_as_tags() -> None:
    origin = Origin("hub:a/b@c", "MIT", {"train": ["MIT", "BSD-3-Clause"]}, GitState("abc", ("effir/two.py",)))
    assert origin.tags() == {
        "model.base": "hub:a/b@c",
        "training.teacher": "none",
        "finetune.self_distillation": "false",
        "licences": '{"model": "MIT", "train": "MIT, BSD-3-Clause"}',
        "git.revision": "abc",
        "git.dirty": "true",
    }
