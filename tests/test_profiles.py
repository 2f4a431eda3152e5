import shutil
from pathlib import Path

import pytest

from effir.errors import EffirError
from effir.params import load_params
from effir.profiles import use_profile

ROOT = Path(__file__).parents[1]


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml"))


def test_every_profile_makes_valid_params_and_changes_only_what_it_says(params: Path) -> None:
    before = load_params(params).model_dump(by_alias=True)
    changes = use_profile(ROOT / "profiles", "mistral-7b", params)
    after = load_params(params).model_dump(by_alias=True)
    differing = {f"{s}.{k}" for s, values in after.items() for k, v in values.items() if v != before[s][k]}
    assert differing == {key for key, _, _ in changes}
    assert (after["prune"]["depth"], after["prune"]["width"], after["retriever"]["pooling"]) == (16, 0.7, "last")


def test_a_profile_keeps_every_comment(params: Path) -> None:
    comments = [line for line in params.read_text().splitlines() if line.lstrip().startswith("#")]
    use_profile(ROOT / "profiles", "mistral-7b", params)
    assert [line for line in params.read_text().splitlines() if line.lstrip().startswith("#")] == comments


def test_using_a_profile_twice_changes_nothing_more(params: Path) -> None:
    use_profile(ROOT / "profiles", "mistral-7b", params)
    assert use_profile(ROOT / "profiles", "mistral-7b", params) == []


def test_an_unknown_profile_names_those_there_are(params: Path) -> None:
    with pytest.raises(EffirError, match="no profile 'nope': choose one of mistral-7b"):
        use_profile(ROOT / "profiles", "nope", params)


def test_an_invalid_profile_leaves_the_params_as_they_were(params: Path, tmp_path: Path) -> None:
    (tmp_path / "wide.yaml").write_text("prune:\n  width: 1.6\n")
    before = params.read_bytes()
    with pytest.raises(EffirError, match=r"prune\.width.*1\.6"):
        use_profile(tmp_path, "wide", params)
    assert params.read_bytes() == before
