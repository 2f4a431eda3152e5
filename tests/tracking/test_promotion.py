import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from effir.cli import main
from effir.errors import EffirError
from effir.tracking import open_store
from effir.tracking.download import download_model
from effir.tracking.runs import pipeline_run

NAME = "effir-retriever"


def effir(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def aliases() -> dict[str, int]:
    found: Any = open_store().client.get_registered_model(NAME).aliases
    return {alias: int(version) for alias, version in found.items()}


def test_the_story_of_a_champion(project: Path, register: Callable[..., int]) -> None:
    register(0.5)
    first = effir("promote")
    assert (first.exit_code, first.output) == (0, f"{NAME} version 1 is now its champion\n")

    register(0.4)
    refused = effir("promote")
    assert refused.exit_code == 1
    assert refused.output.splitlines()[0] == f"{NAME} version 2 stays challenger:"
    assert refused.output.splitlines()[1].startswith("- apidocs: nDCG@10 is 0.100 below version 1's")
    assert aliases() == {"champion": 1, "challenger": 2}

    forced = effir("promote", "--force", "--reason", "half the price")
    assert forced.exit_code == 0
    assert aliases() == {"champion": 2, "challenger": 2, "previous": 1}
    tags = open_store().client.get_model_version(NAME, "2").tags
    assert tags["effir.promoted_by_force"] == "half the price"

    assert effir("rollback").output == f"{NAME} version 1 is its champion again, in the place of version 2\n"
    assert aliases() == {"champion": 1, "challenger": 2}

    register(0.6)
    better = json.loads(effir("promote", "--json").output)
    assert better == {"version": 3, "previous": 1, "reasons": [], "promoted": True}
    listed = json.loads(effir("models", "--json").output)
    assert [(one["version"], one["aliases"]) for one in listed] == [
        (3, ["challenger", "champion"]),
        (2, []),
        (1, ["previous"]),
    ]
    assert listed[1]["metrics"]["apidocs/ndcg_at_10"] == 0.4
    assert effir("models").output.splitlines()[0] == (
        "3  d10  challenger, champion  apidocs/ndcg_at_10 0.600  kept 0.60  speed-up 1.50"
    )


def test_what_cannot_be_promoted_is_one_sentence_and_status_2(project: Path, register: Callable[..., int]) -> None:
    for command in ("promote", "rollback"):
        nothing = effir(command)
        assert nothing.exit_code == 2
        assert nothing.output == f"Error: no model {NAME} is registered: run `dvc repro`, or mend register.name\n"
    assert effir("models").output == ""
    register(0.5)
    assert effir("promote").exit_code == 0
    again = effir("promote")
    assert again.exit_code == 2
    assert again.output == (f"Error: version 1 of {NAME} is the champion already: register another one to promote\n")
    assert "there is nothing to roll back to" in effir("rollback").output
    assert effir("promote", "--force").output == "Error: --force and --reason go together: give both, or neither\n"


def test_a_version_without_figures_is_one_sentence_and_nothing_moves(
    project: Path, register: Callable[..., int]
) -> None:
    register(0.5)
    client = open_store().client
    bare = client.create_model_version(NAME, "runs:/none/model", pipeline_run({"bare": True}))
    client.set_registered_model_alias(NAME, "challenger", bare.version)
    done = effir("promote")
    assert done.exit_code == 2
    assert done.output.startswith(f"Error: version 2 of {NAME} lacks figures that the gate needs (")
    assert len(done.output.splitlines()) == 1
    assert aliases() == {"challenger": 2}


def test_a_slow_model_is_refused_without_a_champion_too(project: Path, register: Callable[..., int]) -> None:
    register(0.5, speedup=0.8)
    done = effir("promote", "--json")
    assert done.exit_code == 1
    assert json.loads(done.output)["reasons"] == [
        "it encodes documents 0.80 times as fast as the base model, less than register.min_speedup = 1"
    ]
    assert aliases() == {"challenger": 1}


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
        assert done.output.startswith(f"Error: version {version} of {NAME} lacks figures that the gate needs (")


def test_a_version_that_is_no_retriever_of_the_pipeline_is_one_sentence(
    project: Path, register: Callable[..., int], tmp_path: Path
) -> None:
    register(0.5)
    with pytest.raises(EffirError, match=rf"^models:/{NAME}/1 is no retriever of `dvc repro` \(runs:/.*\): name a"):
        download_model(f"models:/{NAME}/1", tmp_path / "cache")
