"""`effir import`: what others cut becomes a checkpoint that computes the same."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from effir.cli import main
from tests.compress.conftest import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.slow

FAMILIES = ("llama", "mistral", "gemma2")
MLPS, ATTENTIONS = [1, 3], [2]
TOKENS = {"input_ids": torch.tensor([[5, 9, 4, 33, 2]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
WEIGHTS = "adapter_model.safetensors"


def effir(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["import", *map(str, arguments)])


def silenced(model: Any) -> Any:
    """The uncompressed model with the outputs of dropped sublayers at zero: the reference, without code of effir."""
    with torch.no_grad():
        for layer in MLPS:
            model.layers[layer].mlp.down_proj.weight.zero_()
        for layer in ATTENTIONS:
            model.layers[layer].self_attn.o_proj.weight.zero_()
    return model


def states(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(**TOKENS).last_hidden_state


@pytest.fixture(params=FAMILIES)
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint as LLM-Drop leaves it: all weights, and lists of what is not computed."""
    folder = tmp_path / "foreign"
    settings = {"llama": {"attention_bias": False, "mlp_bias": False}}.get(request.param, {})
    tiny_model(request.param, **settings).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    name_dropped(folder, drop_mlp_list=MLPS[::-1], drop_attn_list=[layer in ATTENTIONS for layer in range(4)])
    return folder


def name_dropped(folder: Path, **lists: Any) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    auto_map = {"AutoConfig": "configuration_dropped.Config", "AutoModelForCausalLM": "modeling_dropped.Model"}
    (folder / "config.json").write_text(json.dumps({**config, **lists, "auto_map": auto_map}), encoding="utf-8")


def whole(folder: Path, into: Path) -> Path:
    """The same weights as an ordinary checkpoint."""
    shutil.copytree(folder, into)
    config = json.loads((into / "config.json").read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if not key.startswith("drop_") and key != "auto_map"}
    (into / "config.json").write_text(json.dumps(kept), encoding="utf-8")
    return into


def test_a_dropped_model_computes_the_same(foreign: Path, tmp_path: Path) -> None:
    result = effir(foreign, tmp_path / "ours")
    assert result.exit_code == 0, result.output
    assert "without 2 MLPs and 1 attentions" in result.output
    ours = AutoModel.from_pretrained(tmp_path / "ours").eval()
    theirs = silenced(AutoModel.from_pretrained(whole(foreign, tmp_path / "whole")).eval())
    torch.testing.assert_close(states(ours), states(theirs), atol=1e-5, rtol=0)
    assert json.loads((tmp_path / "ours/config.json").read_text(encoding="utf-8")).keys().isdisjoint({"drop_mlp_list"})
    assert sum(p.numel() for p in ours.parameters()) < sum(p.numel() for p in theirs.parameters())


def test_weights_of_dropped_sublayers_may_be_missing(foreign: Path, tmp_path: Path) -> None:
    weights = load_file(foreign / "model.safetensors")
    left = {key: value for key, value in weights.items() if not key.startswith("model.layers.1.mlp")}
    assert len(left) < len(weights)
    effir(foreign, tmp_path / "with")
    save_file(left, foreign / "model.safetensors", metadata={"format": "pt"})
    assert effir(foreign, tmp_path / "without").exit_code == 0
    ours, same = (AutoModel.from_pretrained(tmp_path / name).eval() for name in ("with", "without"))
    torch.testing.assert_close(states(ours), states(same), atol=0, rtol=0)


def adapted(model: Any, settings: LoraConfig, into: Path) -> Any:
    """Put an adapter that is not zero over a model, and save it alone."""
    torch.manual_seed(1)
    model = get_peft_model(model, settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.1)
    model.save_pretrained(into)
    return model


@pytest.mark.parametrize("trained_on", ["with LM head", "without"])
def test_an_adapter_over_a_dropped_model_computes_the_same(foreign: Path, tmp_path: Path, trained_on: str) -> None:
    plain = whole(foreign, tmp_path / "whole")
    opened: Any = AutoModelForCausalLM if trained_on == "with LM head" else AutoModel
    settings = LoraConfig(r=3, lora_alpha=7, target_modules=["q_proj", "o_proj", "up_proj", "down_proj"])
    adapted(opened.from_pretrained(plain), settings, tmp_path / "adapter")

    result = effir(tmp_path / "adapter", tmp_path / "ours", "--base", foreign)
    assert result.exit_code == 0, result.output
    assert "adapter merged" in result.output
    ours = AutoModel.from_pretrained(tmp_path / "ours").eval()
    merged: Any = PeftModel.from_pretrained(opened.from_pretrained(plain), tmp_path / "adapter").merge_and_unload()
    theirs = silenced((merged.model if trained_on == "with LM head" else merged).eval())
    torch.testing.assert_close(states(ours), states(theirs), atol=1e-5, rtol=0)
    untouched = silenced(AutoModel.from_pretrained(plain).eval())
    assert not torch.allclose(states(ours), states(untouched), atol=1e-2)


def test_neither_weights_nor_adapters_of_dropped_sublayers_need_exist(foreign: Path, tmp_path: Path) -> None:
    settings = LoraConfig(r=3, lora_alpha=7, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    plain = whole(foreign, tmp_path / "whole")
    adapted(AutoModelForCausalLM.from_pretrained(plain), settings, tmp_path / "adapter")
    effir(tmp_path / "adapter", tmp_path / "with", "--base", foreign)
    for file, dropped in (
        (foreign / "model.safetensors", "layers.1.mlp"),
        (tmp_path / "adapter" / WEIGHTS, "layers.3.mlp"),
    ):
        weights = load_file(file)
        kept = {key: value for key, value in weights.items() if dropped not in key}
        assert len(kept) < len(weights)
        save_file(kept, file, metadata={"format": "pt"})
    result = effir(tmp_path / "adapter", tmp_path / "without", "--base", foreign)
    assert result.exit_code == 0, result.output
    ours, same = (AutoModel.from_pretrained(tmp_path / name).eval() for name in ("with", "without"))
    torch.testing.assert_close(states(ours), states(same), atol=0, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha_pattern": {"model.layers.0.self_attn.q_proj": 21}},
        {"rank_pattern": {r"model\.layers\.[02]\.mlp\.up_proj": 5}},
        {"alpha_pattern": {r"^model.layers.\d.mlp.up_proj": 21}, "rank_pattern": {"q_proj": 2}, "use_rslora": True},
        {"target_modules": ["model.layers.0.self_attn.q_proj", "model.layers.3.mlp.up_proj"]},
        {"target_modules": r"model\.layers\.[02]\.(self_attn\.q_proj|mlp\.up_proj)"},
        {"layers_to_transform": [0, 2], "layers_pattern": "layers"},
        {"layers_to_transform": [0]},
        {"exclude_modules": r"model\.layers\.0\..*"},
    ],
    ids=" ".join,
)
def test_an_adapter_that_names_modules_as_its_own_model_does_is_merged_as_peft_does(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    foreign = tmp_path / "foreign"
    tiny_model("llama", attention_bias=False, mlp_bias=False).save_pretrained(foreign)
    tiny_tokenizer().save_pretrained(foreign)
    name_dropped(foreign, drop_mlp_list=MLPS, drop_attn_list=ATTENTIONS)
    plain = whole(foreign, tmp_path / "whole")
    lora = LoraConfig(**{"r": 3, "lora_alpha": 7, "target_modules": ["q_proj", "up_proj"], **settings})
    model = adapted(AutoModelForCausalLM.from_pretrained(plain), lora, tmp_path / "adapter")

    result = effir(tmp_path / "adapter", tmp_path / "ours", "--base", foreign)
    assert result.exit_code == 0, result.output
    ours = AutoModel.from_pretrained(tmp_path / "ours").eval()
    theirs = silenced(model.merge_and_unload().model.eval())
    torch.testing.assert_close(states(ours), states(theirs), atol=1e-5, rtol=0)


def test_settings_that_peft_refuses_are_one_sentence(foreign: Path, tmp_path: Path) -> None:
    lora = LoraConfig(r=2, target_modules=["q_proj"])
    get_peft_model(AutoModel.from_pretrained(whole(foreign, tmp_path / "whole")), lora).save_pretrained(
        tmp_path / "adapter"
    )
    config = tmp_path / "adapter/adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text(encoding="utf-8")), "r": 0}), encoding="utf-8")
    result = effir(tmp_path / "adapter", tmp_path / "ours", "--base", foreign)
    assert result.exit_code == 2
    assert f"the weights in {tmp_path / 'adapter'} do not fit" in result.output.splitlines()[-1]


def test_the_result_is_a_base_model_that_can_be_cut_further(foreign: Path, tmp_path: Path) -> None:
    from effir.data.base_model import install_base_model
    from effir.model.shape import shape_of

    effir(foreign, tmp_path / "ours")
    install_base_model(str(tmp_path / "ours"), tmp_path / "base", tmp_path)
    shape = shape_of(tmp_path / "base")
    assert (shape.having("mlp"), shape.having("attention")) == ([0, 2], [0, 1, 3])


def test_pickled_weights_are_refused_with_the_way_out(foreign: Path, tmp_path: Path) -> None:
    (foreign / "model.safetensors").rename(foreign / "pytorch_model.bin")
    result = effir(foreign, tmp_path / "ours")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "only pickled weights (pytorch_model.bin), which can run code" in result.output
    assert "save_pretrained" in result.output
    assert not (tmp_path / "ours").exists()


def test_damaged_weights_are_one_sentence(foreign: Path, tmp_path: Path) -> None:
    (foreign / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")
    result = effir(foreign, tmp_path / "ours")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert f"the weights in {foreign} do not fit or are damaged" in result.output


def test_damaged_weights_under_an_adapter_name_the_model(foreign: Path, tmp_path: Path) -> None:
    settings = LoraConfig(r=2, target_modules=["q_proj"])
    adapted(AutoModel.from_pretrained(whole(foreign, tmp_path / "whole")), settings, tmp_path / "adapter")
    (foreign / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")
    result = effir(tmp_path / "adapter", tmp_path / "ours", "--base", foreign)
    assert result.exit_code == 2
    assert f"the weights in {foreign} do not fit or are damaged" in result.output.splitlines()[-1]


def test_an_adapter_over_another_size_is_one_sentence(foreign: Path, tmp_path: Path) -> None:
    settings = LoraConfig(r=2, target_modules=["q_proj"])
    get_peft_model(AutoModel.from_pretrained(whole(foreign, tmp_path / "whole")), settings).save_pretrained(
        tmp_path / "adapter"
    )
    weights = {key: torch.cat([each, each]) for key, each in load_file(tmp_path / "adapter" / WEIGHTS).items()}
    save_file(weights, tmp_path / "adapter" / WEIGHTS)
    result = effir(tmp_path / "adapter", tmp_path / "ours", "--base", foreign)
    assert result.exit_code == 2
    assert f"the weights in {tmp_path / 'adapter'} do not fit" in result.output.splitlines()[-1]
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        ({}, "has no drop_mlp_list or drop_attn_list: there is nothing to import"),
        ({"drop_mlp_list": [4]}, "layer 4 is not there: the model has 4 layers"),
        ({"drop_mlp_list": "all"}, "drop_mlp_list must list layers, or a truth value for each of 4"),
        ({"drop_attn_list": [True]}, "drop_attn_list must list layers"),
    ],
)
def test_wrong_lists_are_one_sentence(tmp_path: Path, lists: dict[str, Any], said: str) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "foreign")
    name_dropped(tmp_path / "foreign", **lists)
    result = effir(tmp_path / "foreign", tmp_path / "ours")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert said in result.output


@pytest.fixture
def plain_llama(tmp_path: Path) -> Path:
    """A dropped Llama without biases, as ``foreign``, and the same weights as an ordinary checkpoint ``whole``."""
    tiny_model("llama", attention_bias=False, mlp_bias=False).save_pretrained(tmp_path / "foreign")
    tiny_tokenizer().save_pretrained(tmp_path / "foreign")
    name_dropped(tmp_path / "foreign", drop_mlp_list=MLPS, drop_attn_list=ATTENTIONS)
    return whole(tmp_path / "foreign", tmp_path / "whole")


def change_adapter(folder: Path, change: Callable[[str, torch.Tensor], dict[str, torch.Tensor]]) -> None:
    changed = [change(name, tensor) for name, tensor in load_file(folder / WEIGHTS).items()]
    save_file({name: tensor for each in changed for name, tensor in each.items()}, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("change", "config", "said"),
    [
        (
            lambda name, tensor: {name.removeprefix("base_model.model."): tensor},
            {},
            "peft does not apply model.layers.0.",
        ),
        (lambda name, tensor: {name.replace("weight", "default.weight"): tensor}, {}, "which is not plain LoRA"),
        (lambda name, tensor: {name: tensor}, {"target_modules": ["q_proj"]}, "peft does not apply base_model.model."),
        (lambda name, tensor: {name: tensor * ("lora_A" in name)}, {}, "changes nothing, its lora_B are zero"),
        (lambda name, tensor: {name: tensor * ("lora_B" in name)}, {}, "does not change layers.0.mlp.up_proj.weight"),
        (lambda name, tensor: {name: tensor, name.replace("_A", "_magnitude"): tensor + 1}, {}, "not plain LoRA"),
        (lambda name, tensor: {name: tensor}, {"init_lora_weights": "pissa"}, "LORA with init_lora_weights pissa"),
        (lambda name, tensor: {name: tensor}, {"layer_replication": [[0, 4], [2, 4]]}, "LORA with layer_replication"),
        (lambda name, tensor: {name: tensor}, {"modules_to_save": ["embed_tokens"]}, "LORA with modules_to_save"),
        (lambda name, tensor: {name: tensor}, {"use_next_lora": True}, "is LORA with use_next_lora, not plain LoRA"),
    ],
    ids=[
        "no prefix",
        "the adapter's name",
        "other target modules",
        "untrained",
        "zero A",
        "a magnitude without use_dora",
        "PiSSA",
        "replicated layers",
        "modules_to_save",
        "a key of a newer peft",
    ],
)
def test_an_adapter_that_would_be_applied_by_half_or_not_at_all_is_one_sentence(
    plain_llama: Path, tmp_path: Path, change: Any, config: dict[str, Any], said: str
) -> None:
    lora = LoraConfig(r=3, lora_alpha=7, target_modules=["q_proj", "up_proj"])
    adapted(AutoModelForCausalLM.from_pretrained(plain_llama), lora, tmp_path / "adapter")
    change_adapter(tmp_path / "adapter", change)
    named = tmp_path / "adapter/adapter_config.json"
    named.write_text(json.dumps({**json.loads(named.read_text(encoding="utf-8")), **config}), encoding="utf-8")
    result = effir(tmp_path / "adapter", tmp_path / "ours", "--base", tmp_path / "foreign")
    assert result.exit_code == 2
    assert said in result.output.splitlines()[-1]
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_of_embedding_and_lm_head_changes_the_embedding_alone(tmp_path: Path, tied: bool) -> None:
    tiny_model("llama", attention_bias=False, mlp_bias=False, tie_word_embeddings=tied).save_pretrained(
        tmp_path / "foreign"
    )
    tiny_tokenizer().save_pretrained(tmp_path / "foreign")
    name_dropped(tmp_path / "foreign", drop_mlp_list=MLPS, drop_attn_list=ATTENTIONS)
    plain = whole(tmp_path / "foreign", tmp_path / "whole")
    lora = LoraConfig(r=3, lora_alpha=7, target_modules=["q_proj", "embed_tokens", "lm_head"])
    model = adapted(AutoModelForCausalLM.from_pretrained(plain), lora, tmp_path / "adapter")
    change_adapter(tmp_path / "adapter", lambda name, each: {} if "base_layer" in name else {name: each})
    result = effir(tmp_path / "adapter", tmp_path / "ours", "--base", tmp_path / "foreign")
    assert result.exit_code == 0, result.output
    ours = AutoModel.from_pretrained(tmp_path / "ours").eval()
    theirs = silenced(model.model.model.eval())  # not merged: what was trained
    torch.testing.assert_close(states(ours), states(theirs), atol=1e-5, rtol=0)


UNDER: dict[str, tuple[Callable[[str], str | None], dict[str, int], str]] = {
    "no MLP": (lambda name: None if "layers.0.mlp" in name else name, {}, "lacks 3 of the 38 weights"),
    "no embedding": (
        lambda name: None if "embed" in name else name,
        {},
        "lacks 1 of the 38 weights .*embed_tokens.weight",
    ),
    "a layer more": (
        str,
        {"num_hidden_layers": 3},
        "stores layers.3.input_layernorm.weight, for which",
    ),
    "compiled": ("_orig_mod.{}".format, {}, "under a name that transformers does not know"),
}


@pytest.mark.parametrize("kind", UNDER)
@pytest.mark.parametrize("with_adapter", [True, False])
def test_a_model_whose_weights_are_not_those_of_its_config_is_one_sentence(
    plain_llama: Path, tmp_path: Path, kind: str, with_adapter: bool
) -> None:
    rename, config, said = UNDER[kind]
    lora = LoraConfig(target_modules=["q_proj"])
    adapted(AutoModelForCausalLM.from_pretrained(plain_llama), lora, tmp_path / "adapter")
    foreign = tmp_path / "foreign"
    weights = {rename(name): tensor for name, tensor in load_file(foreign / "model.safetensors").items()}
    save_file(
        {name: tensor for name, tensor in weights.items() if name}, foreign / "model.safetensors", {"format": "pt"}
    )
    name_dropped(foreign, drop_mlp_list=[1], drop_attn_list=[2], **config)
    named = (
        [tmp_path / "adapter", tmp_path / "ours", "--base", foreign] if with_adapter else [foreign, tmp_path / "ours"]
    )
    result = effir(*named)
    if kind == "compiled" and not with_adapter:  # then no library but effir's own reads the names
        assert result.exit_code == 0, result.output
        return
    assert result.exit_code == 2
    assert re.search(said, result.output.splitlines()[-1])
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "LORA", "use_dora": True}, "is LORA with use_dora, not plain LoRA: merge it with peft"),
        ({"peft_type": "IA3"}, "is IA3, not plain LoRA"),
        ({"peft_type": "LORA", "bias": "lora_only"}, "is LORA with bias, not plain LoRA"),
        ({"peft_type": "LORA", "r": 2}, "adapts y, which the model under it does not have"),
        ({"base_model_name_or_path": "elsewhere"}, "is an adapter over elsewhere, which is missing"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_one_sentence(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "foreign")
    name_dropped(tmp_path / "foreign", drop_mlp_list=[1])
    (tmp_path / "adapter").mkdir()
    settings = {"base_model_name_or_path": str(tmp_path / "foreign"), **config}
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    save_file({"y.lora_A.weight": torch.zeros(1)}, tmp_path / "adapter" / WEIGHTS)
    result = effir(tmp_path / "adapter", tmp_path / "ours")
    assert result.exit_code == 2
    assert said in result.output.splitlines()[-1]
    assert not (tmp_path / "ours").exists()
