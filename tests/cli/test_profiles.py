import shutil
from pathlib import Path

import pytest
import yaml

from effir.cli.profiles import profile_options, profile_purposes, use_profiles
from effir.errors import EffirError
from effir.params import flatten, load_params, same_text

ROOT = Path(__file__).parents[2]
PROFILES = ROOT / "profiles"


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml"))


@pytest.mark.parametrize("name", sorted(path.stem for path in PROFILES.glob("*.yaml")))
def test_every_profile_makes_valid_params_and_changes_only_what_it_says(params: Path, name: str) -> None:
    before = load_params(params).model_dump(by_alias=True)
    foreseen = use_profiles(PROFILES, [name], params, dry_run=True)
    assert load_params(params).model_dump(by_alias=True) == before
    changes = use_profiles(PROFILES, [name], params)
    assert changes == foreseen
    after = load_params(params).model_dump(by_alias=True)
    differing = {f"{s}.{k}" for s, values in after.items() for k, v in values.items() if v != before[s][k]}
    assert differing == {key for key, _, _ in changes}


def test_the_mistral_profile_is_the_papers_main_setting(params: Path) -> None:
    use_profiles(PROFILES, ["mistral-7b"], params)
    after = load_params(params)
    assert (after.prune.depth, after.prune.width, after.retriever.pooling) == (16, 0.7, "last")


def test_every_profile_says_what_it_is_for() -> None:
    purposes = profile_purposes(PROFILES)
    assert all(len(purpose.split()) > 5 for purpose in purposes.values()), purposes
    assert purposes["smoke"].startswith("The whole pipeline in a few minutes")


def test_a_profile_keeps_every_comment(params: Path) -> None:
    comments = [line for line in params.read_text().splitlines() if line.lstrip().startswith("#")]
    use_profiles(PROFILES, ["mistral-7b"], params)
    assert [line for line in params.read_text().splitlines() if line.lstrip().startswith("#")] == comments


def test_using_a_profile_twice_changes_nothing_more(params: Path) -> None:
    use_profiles(PROFILES, ["mistral-7b"], params)
    assert use_profiles(PROFILES, ["mistral-7b"], params) == []


@pytest.mark.parametrize("name", sorted(path.stem for path in PROFILES.glob("*.yaml")))
def test_the_options_of_a_profile_set_what_using_it_writes(params: Path, name: str) -> None:
    settings = dict(option.lstrip("+").split("=", 1) for option in profile_options(PROFILES, [name], params))
    changes = use_profiles(PROFILES, [name], params)
    after = flatten(yaml.safe_load(params.read_text()))
    assert {key for key, _, _ in changes} <= settings.keys()
    assert {key: same_text(value) for key, value in flatten(nested(settings)).items()} == {
        key: same_text(after[key]) for key in settings
    }


def nested(settings: dict[str, str]) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for key, text in settings.items():
        section, name = key.split(".")
        found.setdefault(section, {})[name] = yaml.safe_load(text)
    return found


def test_an_unknown_profile_names_those_there_are(params: Path) -> None:
    with pytest.raises(EffirError, match="no profile 'nope': choose one of beir, mistral-7b, smoke"):
        use_profiles(PROFILES, ["nope"], params)


def test_an_invalid_profile_leaves_the_params_as_they_were(params: Path, tmp_path: Path) -> None:
    (tmp_path / "wide.yaml").write_text("prune:\n  width: 1.6\n")
    before = params.read_bytes()
    with pytest.raises(EffirError, match=r"prune\.width.*1\.6"):
        use_profiles(tmp_path, ["wide"], params)
    assert params.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "said"),
    [("# nothing yet\n", r"holds no settings: write sections"), ("prune: [\n", r"is not YAML \(.*\): correct it")],
)
def test_a_file_without_settings_is_one_sentence(params: Path, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    before = params.read_bytes()
    with pytest.raises(EffirError, match=rf"own\.yaml {said}"):
        use_profiles(tmp_path, ["own"], params)
    assert params.read_bytes() == before
    params.write_text(text)
    with pytest.raises(EffirError, match=rf"params\.yaml {said}"):
        use_profiles(PROFILES, ["smoke"], params)


def test_outside_the_project_it_is_the_params_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(EffirError, match=r"params\.yaml is missing: run this in the project's root"):
        use_profiles(tmp_path / "profiles", ["smoke"], tmp_path / "params.yaml")
