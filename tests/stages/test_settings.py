from dataclasses import replace
from pathlib import Path

import pytest

from effir.errors import EffirError
from effir.model.auto_precision import Decision
from effir.model.prompt_config import PromptConfig, write_prompt_config
from effir.params import Params, load_params
from stages.schedules import distill_schedule, finetune_full_schedule, finetune_schedule, gate_schedule
from stages.settings import retriever_settings

CONFIG = PromptConfig("last", "ask: ", "text: ", ("document", "query"))
OWN = {"pooling": "base", "query_prompt": None, "document_prompt": None}


def params(**retriever: object) -> Params:
    said = load_params().model_dump(by_alias=True)
    return Params.model_validate({**said, "retriever": said["retriever"] | retriever})


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    monkeypatch.setattr("stages.settings.BASE", folder)
    return folder


def test_what_params_say_is_used_whatever_the_base_is(base: Path) -> None:
    expected = {"pooling": "mean", "query_prompt": "", "document_prompt": "d: ", "max_tokens": 32, "eos": True}
    said = params(pooling="mean", query_prompt="", document_prompt="d: ", max_tokens=32)
    assert retriever_settings(said) == expected
    write_prompt_config(CONFIG, base)
    assert retriever_settings(said) == expected


def test_what_params_leave_to_the_base_is_its_own(base: Path) -> None:
    write_prompt_config(CONFIG, base)
    found = retriever_settings(params(**OWN))
    assert (found["pooling"], found["query_prompt"], found["document_prompt"], found["eos"]) == (
        "last",
        "ask: ",
        "text: ",
        False,
    )
    assert retriever_settings(params(query_prompt=None))["query_prompt"] == "ask: "


def test_a_base_with_several_prompts_or_none_of_its_own_is_one_sentence(base: Path) -> None:
    with pytest.raises(EffirError, match=r"is only a language model.*: set retriever\.pooling"):
        retriever_settings(params(**OWN))
    write_prompt_config(replace(CONFIG, query_prompt=None, prompts=("sts", "web")), base)
    with pytest.raises(
        EffirError, match=r"none of the base model's prompts \(sts, web\) is named query: set retriever\.query_prompt"
    ):
        retriever_settings(params(**OWN))
    assert retriever_settings(params(**OWN | {"query_prompt": "q: "}))["query_prompt"] == "q: "


def test_a_schedule_holds_the_precision_that_auto_was_decided_to_be(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A schedule names the folder of its checkpoints: another decision must not continue them.
    (base / "config.json").write_text('{"hidden_size": 4096, "intermediate_size": 4096}')
    monkeypatch.setattr("stages.schedules.BASE", base)
    everything = (finetune_full_schedule, distill_schedule, gate_schedule, finetune_schedule)
    for decided in ("float32", "bfloat16"):
        monkeypatch.setattr("effir.model.precision._multiplies_natively", lambda: True)
        monkeypatch.setattr("effir.model.precision._measured", lambda product, d=decided: Decision(d))
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        assert {schedule(params()).precision for schedule in everything} == {decided}
