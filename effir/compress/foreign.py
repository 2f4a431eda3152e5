"""Import: checkpoints of LLM-Drop and of EffiR's authors, with or without a LoRA adapter, as effir checkpoints."""

import re
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from effir.compress.cut import cut_checkpoint
from effir.data.base_model import PICKLED
from effir.errors import EffirError
from effir.files import read_json, write_json
from effir.model.checkpoint import save_model
from effir.model.shape import ModelShape, Sublayer, read_config, shape_of
from effir.model.weights import expected_shapes, plain_name, weight_files

DROP_LISTS: Mapping[str, Sublayer] = {"drop_mlp_list": "mlp", "drop_attn_list": "attention"}
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
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
REPLACED_KEYS = ("auto_map", "architectures", *DROP_LISTS)
"""Keys of config.json that effir writes anew."""


@dataclass(frozen=True)
class Imported:
    """The shape of an imported checkpoint, and whether an adapter was merged into it."""

    shape: ModelShape
    has_adapter: bool


def import_checkpoint(folder: Path, into: Path, base: Path | None = None) -> Imported:
    """Write the checkpoint in ``folder`` as the effir checkpoint ``into``; a failure writes nothing.

    ``folder`` holds a model whose config.json lists dropped sublayers (``drop_mlp_list``, ``drop_attn_list``: layers,
    or a truth value per layer), or a LoRA adapter over such a model. The model under an adapter is ``base``, or the one
    that the adapter names. Weights of dropped sublayers may be missing. EffirError for pickled weights, for a folder
    that is neither, and for an adapter other than plain LoRA.
    """
    if into.exists():
        raise EffirError(f"{into} exists already: remove it, or name another folder")
    has_adapter = (folder / ADAPTER).is_file()
    model = _base_of(folder, base) if has_adapter else folder
    _refuse_pickles(model)
    with tempfile.TemporaryDirectory() as place:
        plain, merged = Path(place) / "plain", Path(place) / "merged"
        shape = _link_as_plain(model, plain)
        if has_adapter:
            with _errors_about(folder, plain):
                _merge_adapter(folder, model, plain, shape, merged)
        with _errors_about(model, merged if has_adapter else plain):
            cut_checkpoint(merged if has_adapter else plain, into, shape)
    return Imported(shape, has_adapter)


@contextmanager
def _errors_about(folder: Path, temporary: Path) -> Iterator[None]:
    """Raise EffirError about the user's folder, not about its temporary copy, and for unreadable weights."""
    try:
        yield
    except EffirError as error:
        raise EffirError(str(error).replace(str(temporary), str(folder))) from None
    except (SafetensorError, RuntimeError, ValueError) as error:  # damaged, a Git LFS pointer, or of another size
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise EffirError(f"the weights in {folder} do not fit or are damaged ({reason}): download them again") from None


def _base_of(adapter: Path, base: Path | None) -> Path:
    named = base or Path(str(read_json(adapter / ADAPTER).get("base_model_name_or_path") or ""))
    for folder in (named, adapter / named):
        if (folder / "config.json").is_file():
            return folder
    raise EffirError(f"{adapter} is an adapter over {named}, which is missing: download it, and name it with --base")


def _refuse_pickles(folder: Path) -> None:
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled and not any(folder.glob("*.safetensors")):
        fix = "open it where you trust it, and save it with `save_pretrained`, which writes safetensors"
        raise EffirError(f"{folder} has only pickled weights ({pickled[0]}), which can run code: {fix}")


def _link_as_plain(folder: Path, into: Path) -> ModelShape:
    """Link a checkpoint into a folder as an ordinary one of its family, and return the shape that its lists give."""
    if not (folder / "config.json").is_file():
        raise EffirError(f"{folder} has neither config.json nor {ADAPTER}: name the folder of a model or of an adapter")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or not DROP_LISTS.keys() & config.keys():
        raise EffirError(f"{folder / 'config.json'} has no {' or '.join(DROP_LISTS)}: there is nothing to import")
    into.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.name != "config.json":
            (into / path.name).symlink_to(path.resolve())
    write_json(into / "config.json", {key: value for key, value in config.items() if key not in REPLACED_KEYS})
    with _errors_about(folder, into):
        shape = shape_of(into)
    for key, sublayer in DROP_LISTS.items():
        shape = shape.without(sublayer, _dropped_layers(config.get(key) or [], shape.layers, key))
    return shape


def _dropped_layers(listed: Any, layers: int, key: str) -> list[int]:
    """Read a list of layers, or a truth value per layer.

    >>> _dropped_layers([3, 1], 4, "drop_mlp_list"), _dropped_layers([False, True, False, True], 4, "drop_mlp_list")
    ([1, 3], [1, 3])
    """
    if isinstance(listed, list) and len(listed) == layers and all(isinstance(each, bool) for each in listed):
        return [layer for layer, dropped in enumerate(listed) if dropped]
    if isinstance(listed, list) and all(type(each) is int for each in listed):
        return sorted(set(listed))
    raise EffirError(f"config.json: {key} must list layers, or a truth value for each of {layers}: correct it")


def _merge_adapter(adapter: Path, base: Path, plain: Path, shape: ModelShape, into: Path) -> None:
    """Merge a LoRA adapter as peft does, into ``plain``: the model ``base`` with all of its sublayers."""
    from peft import PeftConfig, PeftModel

    _check_adapter(adapter, read_json(adapter / ADAPTER))
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    places = {name: _place_of(name, adapter) for name in tensors}
    adapted = {module for module, _ in places.values()}
    with _errors_about(base, plain):
        model = _open_under(plain, shape, adapted)
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


def _open_under(plain: Path, shape: ModelShape, adapted: Collection[str]) -> Any:
    """Open the model under an adapter, with an LM head of its own if the adapter needs one.

    EffirError if a weight that stays is missing: transformers would draw it at random.
    """
    from torch import nn
    from transformers import AutoModel, AutoModelForCausalLM

    with_head = any(name.startswith(("model.", "lm_head")) for name in adapted)
    opened: Any = AutoModelForCausalLM if with_head else AutoModel
    model, found = opened.from_pretrained(plain, dtype="auto", output_loading_info=True)
    cut = {"mlp_widths": list(shape.mlp_widths), "attention_kept": list(shape.attention_kept)}
    wanted = expected_shapes({**read_config(plain), **cut}, shape.family)
    if missing := sorted({plain_name(name) for name in found["missing_keys"]} & wanted.keys()):
        raise EffirError(f"{plain} lacks {len(missing)} weights, {missing[0]} among them: download it again")
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
    before, after = _stored_weights(plain), _stored_weights(merged)
    same = [name for name in sorted(trained & before.keys() & after.keys()) if before[name]().equal(after[name]())]
    if same or not trained:
        what = f"does not change {same[0]}" if same else "changes nothing, its lora_B are zero"
        raise EffirError(f"{adapter / ADAPTER_WEIGHTS} {what}: give the adapter as it was after its training")


def _stored_weights(folder: Path) -> dict[str, Callable[[], Tensor]]:
    """Map the name of each stored weight to a function that reads it."""

    def read(file: Path, stored: str) -> Tensor:
        with safe_open(file, framework="pt") as weights:
            tensor: Tensor = weights.get_tensor(stored)
            return tensor

    places = dict[str, Callable[[], Tensor]]()
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as weights:
            places |= {plain_name(stored): partial(read, file, stored) for stored in weights.keys()}
    return places


def _check_adapter(adapter: Path, config: Mapping[str, Any]) -> None:
    if not (adapter / ADAPTER_WEIGHTS).is_file():
        _refuse_pickles(adapter)
        raise EffirError(f"{adapter} has no {ADAPTER_WEIGHTS}: download the adapter again")
    more = sorted(key for key, value in config.items() if value and key not in PLAIN_LORA and value != "none")
    if (init := config.get("init_lora_weights")) not in HARMLESS_INIT:
        more.append(f"init_lora_weights {init}")
    if config.get("peft_type") != "LORA" or more:
        kind = f"{config.get('peft_type')}{' with ' + more[0] if more else ''}, not plain LoRA"
        raise EffirError(f"{adapter / ADAPTER} is {kind}: merge it with peft, and import the merged model")
