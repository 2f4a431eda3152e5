import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from effir.cli import main
from effir.tracking import promotion
from effir.tracking.runs import pipeline_run
from effir.tracking.store import open_store

pytestmark = pytest.mark.slow

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
    assert better.pop("notes")[0].startswith("one seed was compared with one seed")
    assert better == {"version": 3, "previous": 1, "reasons": [], "promoted": True}
    listed = json.loads(effir("models", "--json").output)
    assert [(one["version"], one["aliases"]) for one in listed] == [
        (3, ["challenger", "champion"]),
        (2, []),
        (1, ["previous"]),
    ]
    assert listed[1]["metrics"]["apidocs/ndcg_at_10"] == 0.4


def test_one_seed_against_one_is_said_and_seeds_are_compared_by_their_means(
    project: Path, register: Callable[..., int]
) -> None:
    for seed, (champion, challenger) in enumerate([(0.50, 0.48), (0.50, 0.58), (0.50, 0.50)]):
        register(champion, recipe="old", seed=seed)  # versions 1, 3 and 5
        register(challenger, recipe="new", seed=seed)  # 2, 4 and 6
    open_store().client.set_registered_model_alias(NAME, "champion", "1")
    alone = effir("promote", "2")
    assert alone.exit_code == 1
    _, reason, note = alone.output.splitlines()
    assert reason == (
        "- apidocs: nDCG@10 is 0.020 below version 1's, which is not less than register.max_drop = 0.01 (30 queries)"
    )
    assert note == (
        "(one seed was compared with one seed, and another training.seed changes nDCG@10 too: run both recipes with "
        "other seeds, then promote with --seeds)"
    )
    joined = effir("promote", "2", "--seeds")  # (0.48 + 0.58 + 0.50) / 3 = 0.52
    assert (joined.exit_code, joined.output.splitlines()[1]) == (
        0,
        "(means over seeds were compared: 3 of version 2, 3 of version 1)",
    )


def test_seeds_that_nobody_ran_cannot_be_compared(project: Path, register: Callable[..., int]) -> None:
    register(0.5)
    assert effir("promote").exit_code == 0
    register(0.6)
    done = effir("promote", "--seeds")
    assert (done.exit_code, aliases()["champion"]) == (2, 1)
    assert done.output == (
        "Error: versions 2 and 1 have no other seed registered: run their recipes with another training.seed first, "
        "or leave out --seeds\n"
    )


def test_what_cannot_be_promoted_is_one_sentence_and_status_2(project: Path, register: Callable[..., int]) -> None:
    for command in ("promote", "rollback"):
        nothing = effir(command)
        assert nothing.exit_code == 2
        assert nothing.output == (
            f"Error: no model {NAME} is registered: run `dvc repro`, or correct register.name in params.yaml\n"
        )
    register(0.5)
    assert effir("promote").exit_code == 0
    again = effir("promote")
    assert again.exit_code == 2
    assert again.output == (f"Error: version 1 of {NAME} is the champion already: register another one to promote\n")
    assert "there is nothing to roll back to" in effir("rollback").output
    assert effir("promote", "--force").output == "Error: --force and --reason go together: give both, or neither\n"


def test_a_version_without_metrics_is_one_sentence_and_nothing_moves(
    project: Path, register: Callable[..., int]
) -> None:
    register(0.5)
    client = open_store().client
    bare = client.create_model_version(NAME, "runs:/none/model", pipeline_run({"bare": True}))
    client.set_registered_model_alias(NAME, "challenger", bare.version)
    done = effir("promote")
    assert done.exit_code == 2
    assert done.output.startswith(f"Error: version 2 of {NAME} lacks metrics that the promotion rules need (")
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


def moving_later(patch: pytest.MonkeyPatch, which: str, to: str) -> None:
    """Let someone else move the alias ``which`` right after the next change of the champion."""
    client = open_store().client
    own = type(client).set_registered_model_alias

    def set_then_overtaken(self: Any, name: str, alias: str, version: str) -> None:
        own(self, name, alias, version)
        if alias == "champion":
            own(self, name, which, to)

    patch.setattr(type(client), "set_registered_model_alias", set_then_overtaken)


@pytest.mark.parametrize("command", ["promote", "rollback"])
def test_someone_elses_change_of_the_champion_meanwhile_is_told(
    register: Callable[..., int], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    for _ in range(3):
        register(0.5)
    client = open_store().client
    client.set_registered_model_alias(NAME, "champion", "1")
    client.set_registered_model_alias(NAME, "previous", "1")
    moving_later(monkeypatch, "champion", "2")
    done = effir(command, "--json")
    assert done.exit_code == 1
    told = "version 2 became champion meanwhile: look at `effir models`, then try again"
    found = json.loads(done.output)
    assert (found["previous"], found["reasons"], found["promoted"]) == (2, [told], False)
    assert aliases()["champion"] == 2


def test_a_champion_that_changed_while_the_rules_were_checked_is_not_replaced(
    register: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        register(0.5)
    client, check = open_store().client, promotion.refusals

    def slow(*arguments: Any) -> list[str]:
        client.set_registered_model_alias(NAME, "champion", "2")
        return check(*arguments)

    monkeypatch.setattr(promotion, "refusals", slow)
    done = effir("promote", "3")
    assert (done.exit_code, aliases()) == (1, {"champion": 2, "challenger": 3})
    assert "- version 2 became champion meanwhile: look at `effir models`, then try again" in done.output


def test_a_promotion_that_is_killed_between_its_two_aliases_is_completed_by_the_next_one(
    register: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(0.5)
    effir("promote")
    register(0.6)
    client, left = open_store().client, [1]
    own = type(client).set_registered_model_alias

    def killed(self: Any, *arguments: str) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        own(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(type(client), "set_registered_model_alias", killed)
        effir("promote")
    assert aliases()["champion"] == 1
    assert effir("promote").exit_code == 0
    assert aliases() == {"champion": 2, "challenger": 2, "previous": 1}  # it was lost: the second try was refused
