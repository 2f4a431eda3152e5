"""What `effir models` lists, and what models:/… names mean."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from effir.cli import main
from effir.cli.models import _variants
from effir.errors import EffirError
from effir.tracking.store import open_store
from effir.tracking.versions import ModelVersion, download_model

pytestmark = pytest.mark.slow

NAME = "effir-retriever"


def effir(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_the_table_has_a_row_for_each_version_with_the_params_that_differ(
    project: Path, register: Callable[..., int]
) -> None:
    nothing = effir("models")
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    assert nothing.stderr == f"no version of {NAME} is registered yet: run `dvc repro`\n"
    register(0.5)
    register(0.625, speedup=2.0)
    heading, newest, oldest = (line.rstrip() for line in effir("models").stdout.splitlines())
    assert re.split(r"  +", heading.strip()) == [
        *("version", "aliases", "date", "variant", "nDCG@10 apidocs", "kept", "speed-up")
    ]
    date = r"\d{4}-\d\d-\d\d \d\d:\d\d"
    assert re.fullmatch(rf"2 +challenger +{date} +ndcg 0\.625, speedup 2\.0 +0\.625 +60\.0% +2\.00x", newest)
    assert re.fullmatch(rf"1 +- +{date} +ndcg 0\.5, speedup 1\.5 +0\.500 +60\.0% +1\.50x", oldest)


def version(**params: str) -> ModelVersion:
    named = {key.replace("__", "."): value for key, value in params.items()}
    return ModelVersion(1, [], {"variant": "d10"}, 0, named, {})


def test_a_variant_is_named_by_what_differs_the_cut_first_and_by_its_tag_otherwise() -> None:
    deep = version(prune__depth="10", cost__rounds="3", training__seed="0", register__name="a")
    wide = version(prune__depth="0", cost__rounds="1", training__seed="0", register__name="b")
    assert _variants([deep, wide]) == ["depth 10, rounds 3", "depth 0, rounds 1"]
    assert _variants([deep, deep]) == ["d10", "d10"]
    assert _variants([deep, version(), wide])[1] == "d10"  # its run is gone


def test_versions_whose_run_is_gone_or_never_was_are_listed_beside_the_others(
    project: Path, register: Callable[..., int]
) -> None:
    register(0.5)
    client = open_store().client
    client.create_model_version(NAME, "runs:/none/model")
    client.create_model_version(NAME, "runs:/none/model", "0" * 32)
    listed = json.loads(effir("models", "--json").output)
    assert [(one["version"], one["metrics"].get("apidocs/ndcg_at_10")) for one in listed] == [
        (3, None),
        (2, None),
        (1, 0.5),
    ]
    for version in ("2", "3"):
        done = effir("promote", version)
        assert (done.exit_code, len(done.output.splitlines())) == (2, 1)
        assert done.output.startswith(f"Error: version {version} of {NAME} lacks metrics that the ")


def test_a_version_that_effir_did_not_register_is_one_sentence(
    project: Path, register: Callable[..., int], tmp_path: Path
) -> None:
    register(0.5)
    with pytest.raises(EffirError, match=rf"^models:/{NAME}/1 is not a retriever that effir registered \(runs:/.*\)"):
        download_model(f"models:/{NAME}/1", tmp_path / "cache")
    with pytest.raises(EffirError, match=f"^{NAME} has no champion yet: run `effir promote` to make a version the"):
        download_model(f"models:/{NAME}@champion", tmp_path / "cache")
    with pytest.raises(EffirError, match=r"^models:/x names no registered model: write models:/<name>@<alias> or"):
        download_model("models:/x", tmp_path / "cache")
