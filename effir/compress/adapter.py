"""Merge a LoRA adapter into the model under it, as peft does, and check that all of it was applied."""

import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from effir.data.base_model import ADAPTER, PICKLED
from effir.errors import EffirError
from effir.files import read_json
from effir.model.checkpoint import save_model
from effir.model.weights import plain_name, stored_weights

ADAPTER_WEIGHTS = "adapter_model.safetensors"
# Keys of a plain LoRA adapter: those that peft merges, and those that only its training reads. A key that is not listed
# and not empty is more than plain LoRA, also one that the installed peft does not know and would ignore.
PLAIN_LORA = {
    *("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights"),
    *("base_model_name_or_path", "revision", "task_type", "auto_mapping", "peft_version", "inference_mode"),
    *("lora_dropout", "megatron_core", "qalora_group_size", "runtime_config", "eva_config", "corda_config"),
    *("loftq_config", "lora_ga_config"),
}
# Ways to initialise an adapter that leave the model under it as it is; PiSSA, OLoRA, CorDA and LoftQ change it.
HARMLESS_INIT = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
LORA_KEY = re.compile(r"(.+)\.lora_(?:embedding_)?([AB])(?:\.weight)?")


def merge_adapter(adapter: Path, base: Path, plain: Path, into: Path) -> None:
    """Merge the adapter in a folder into ``plain``, the model ``base`` with all its sublayers; write ``into``.

    EffirError for an adapter that is more than plain LoRA, or of which a tensor is not applied or changes nothing.
    """
    from peft import PeftConfig, PeftModel

    _check_adapter(adapter, read_json(adapter / ADAPTER))
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    places = {name: _place_of(name, adapter) for name in tensors}
    adapted = {module for module, _ in places.values()}
    model = _open_under(plain, adapted, base)
    if unknown := adapted - {name for name, _ in model.named_modules()}:
        reason = "which the model under it does not have: name with --base the model that it was trained on"
        raise EffirError(f"{adapter / ADAPTER_WEIGHTS} adapts {min(unknown)}, {reason}")
    config = PeftConfig.from_pretrained(adapter)
    config.task_type = None  # or peft asks for the methods of a model of that task
    config.init_lora_weights = True  # modules without tensors in the adapter do not change
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found missing adapter keys")  # those of dropped sublayers
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings=")  # they are no longer one tensor
        adapted_model = PeftModel.from_pretrained(model, adapter, config=config)
        _check_applied(adapter, tensors, adapted_model)
        save_model(adapted_model.merge_and_unload(), plain, into)
    trained = {places[name][0] for name, tensor in tensors.items() if places[name][1] == "B" and tensor.any()}
    _check_changed(adapter, {f"{plain_name(module)}.weight" for module in trained}, plain, into)


def _place_of(name: str, adapter: Path) -> tuple[str, str]:
    """Split the name of an adapter's tensor into the module that it adapts, and its factor, A or B."""
    if (found := LORA_KEY.fullmatch(name)) is None:
        fix = "merge it with peft, and import the merged model"
        raise EffirError(f"{adapter / ADAPTER_WEIGHTS} holds {name}, which is not plain LoRA: {fix}")
    return found[1].removeprefix("base_model.model."), found[2]


def _open_under(plain: Path, adapted: Collection[str], base: Path) -> Any:
    """Open the model under an adapter, with an LM head of its own if the adapter needs one.

    EffirError if transformers does not recognise a stored weight: it would draw it at random.
    """
    from torch import nn
    from transformers import AutoModel, AutoModelForCausalLM

    with_head = any(name.startswith(("model.", "lm_head")) for name in adapted)
    opened: Any = AutoModelForCausalLM if with_head else AutoModel
    model, found = opened.from_pretrained(plain, dtype="auto", output_loading_info=True)
    if unread := sorted({plain_name(name) for name in found["missing_keys"]} & stored_weights(plain).keys()):
        fix = "save the model again with save_pretrained"
        raise EffirError(f"{base} stores {unread[0]} under a name that transformers does not know: {fix}")
    if "lm_head" in adapted:  # merged into the embedding too, if they were one tensor
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    return model


def _check_applied(adapter: Path, tensors: Mapping[str, Tensor], adapted_model: Any) -> None:
    """Check that peft put each tensor of the adapter into its place: what it does not recognise, it only warns of."""
    from peft import get_peft_model_state_dict

    applied = get_peft_model_state_dict(adapted_model, save_embedding_layers=False)
    for name, tensor in tensors.items():
        if name not in applied or not torch.equal(applied[name], tensor.to(applied[name].dtype)):
            fix = f"correct target_modules in its {ADAPTER}, or save it again with peft's save_pretrained"
            raise EffirError(f"peft does not apply {name} of {adapter / ADAPTER_WEIGHTS}: {fix}")


def _check_changed(adapter: Path, trained: Collection[str], plain: Path, merged: Path) -> None:
    """Check that the weights ``trained`` differ in the merged checkpoint, as far as both have them."""
    before, after = stored_weights(plain), stored_weights(merged)
    same = [name for name in sorted(trained & before.keys() & after.keys()) if before[name]().equal(after[name]())]
    if same or not trained:
        what = f"does not change {same[0]}" if same else "changes nothing, its lora_B are zero"
        raise EffirError(f"{adapter / ADAPTER_WEIGHTS} {what}: give the adapter as it was after its training")


def _check_adapter(adapter: Path, config: Mapping[str, Any]) -> None:
    if not (adapter / ADAPTER_WEIGHTS).is_file():
        refuse_pickles(adapter)
        raise EffirError(f"{adapter} has no {ADAPTER_WEIGHTS}: download the adapter again")
    more = sorted(key for key, value in config.items() if value and key not in PLAIN_LORA and value != "none")
    if (init := config.get("init_lora_weights")) not in HARMLESS_INIT:
        more.append(f"init_lora_weights {init}")
    if config.get("peft_type") != "LORA" or more:
        kind = f"{config.get('peft_type')}{' with ' + more[0] if more else ''}, not plain LoRA"
        raise EffirError(f"{adapter / ADAPTER} is {kind}: merge it with peft, and import the merged model")


def refuse_pickles(folder: Path) -> None:
    """Raise EffirError if ``folder`` has pickled weights and no safetensors."""
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled and not any(folder.glob("*.safetensors")):
        fix = "open it where you trust it, and save it with `save_pretrained`, which writes safetensors"
        raise EffirError(f"{folder} has only pickled weights ({pickled[0]}), which can run code: {fix}")
