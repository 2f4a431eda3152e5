from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from click.testing import CliRunner

from effir.cli import main
from effir.errors import EffirError
from effir.tracking import claim, open_store
from effir.tracking.claim import claimed
from effir.tracking.promotion import Promotion, rollback

NAME = "effir-retriever"


def claims() -> int:
    return len(open_store().client.search_registered_models(f"name = '{NAME}.promotion-in-progress'"))


def test_a_claim_is_held_by_one_and_given_back(project: Path) -> None:
    store = open_store()
    told = rf"^{NAME} is being promoted or rolled back by \S+ for more than 1 s: try again"
    with claimed(store, NAME) as still_held:
        with pytest.raises(EffirError, match=told), claimed(store, NAME, wait=1):
            pytest.fail("two hold it")
        assert still_held()
        assert claims() == 1
    assert claims() == 0


def test_a_claim_that_was_left_is_taken_over_and_its_late_holder_notices(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    with claimed(store, NAME) as first:
        monkeypatch.setattr(claim, "STALE_SECONDS", 0.0)
        with claimed(store, NAME) as second:
            assert second()
            assert not first()
        assert claims() == 0
    assert claims() == 0


def test_a_rollback_that_was_overtaken_while_it_waited_is_told(
    register: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        register(0.5)
    client, waiting, make = open_store().client, Event(), claim._make
    client.set_registered_model_alias(NAME, "previous", "1")
    client.set_registered_model_alias(NAME, "champion", "2")

    def seen(*arguments: Any) -> bool:
        waiting.set()
        return make(*arguments)

    with ThreadPoolExecutor() as threads:
        with claimed(open_store(), NAME):
            monkeypatch.setattr(claim, "_make", seen)
            done = threads.submit(rollback, NAME)
            assert waiting.wait(60)  # it has read that 2 is champion
            client.set_registered_model_alias(NAME, "champion", "3")
        told = "version 3 became champion meanwhile: look at `effir models`, then try again"
        assert done.result(60) == Promotion(version=1, previous=3, reasons=[told], promoted=False)
    aliases = client.get_registered_model(NAME).aliases
    assert {alias: int(version) for alias, version in aliases.items()} == {
        "previous": 1,
        "champion": 3,
        "challenger": 3,
    }


def test_a_claim_is_no_model_to_be_listed(project: Path) -> None:
    with claimed(open_store(), NAME):
        listed = CliRunner().invoke(main, ["models", "--json"])
    assert (listed.exit_code, listed.output) == (0, "[]\n")


def test_a_promotion_that_fails_in_the_middle_gives_its_claim_back(register: Callable[..., int]) -> None:
    register(0.5)
    client = open_store().client
    client.set_registered_model_alias(NAME, "previous", "1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(client), "delete_registered_model_alias", lambda *arguments: 1 / 0)
        assert isinstance(CliRunner().invoke(main, ["rollback"]).exception, ZeroDivisionError)
    assert claims() == 0
