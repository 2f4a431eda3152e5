"""Checkpoints of LLM-Drop and of EffiR's authors, with or without a LoRA adapter over them, as checkpoints of effir."""

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effir.compress.cut import cut_checkpoint
from effir.data.base_model import PICKLED
from effir.errors import EffirError
from effir.files import read_json, write_json, writing
from effir.model.checkpoint import save_model
from effir.model.shape import ModelShape, shape_of

LISTS = {"drop_mlp_list": "mlp", "drop_attn_list": "attention"}
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OVER_HEAD = "base_model.model.model."
"""How tensors of an adapter begin that was trained on a model with its LM head."""
MORE_THAN_LORA = ("modules_to_save", "use_dora", "trainable_token_indices", "alora_invocation_tokens")
UNREAD = ("auto_map", "architectures", *LISTS)
"""Keys of such a config.json that effir's own takes the place of."""


@dataclass(frozen=True)
class Imported:
    """What was made: the shape of the cut, and whether an adapter was folded in."""

    shape: ModelShape
    has_adapter: bool


def import_checkpoint(folder: Path, into: Path, base: Path | None = None) -> Imported:
    """Write the checkpoint in ``folder`` as the effir checkpoint ``into``, whole or not at all.

    ``folder`` holds a model whose config.json names dropped sublayers (``drop_mlp_list``, ``drop_attn_list``: layers,
    or a truth value a layer), or a LoRA adapter over such a model, which is ``base`` or where the adapter says. Weights
    of dropped sublayers may be there or not. EffirError for pickled weights, for what is neither, and for an adapter
    that is more than LoRA.
    """
    if into.exists():
        raise EffirError(f"{into} is there already: remove it, or name another folder")
    has_adapter = (folder / ADAPTER).is_file()
    model = _base_of(folder, base) if has_adapter else folder
    _refuse_pickles(model)
    with tempfile.TemporaryDirectory() as place:
        plain, cut = Path(place) / "plain", Path(place) / "cut"
        shape = _plain(model, plain)
        with _told_of(model, plain):
            cut_checkpoint(plain, cut if has_adapter else into, shape)
        if has_adapter:
            with writing(into) as draft, _told_of(folder, cut):
                _fold(folder, cut, Path(place) / "adapter", draft)
    return Imported(shape, has_adapter)


@contextmanager
def _told_of(folder: Path, stand_in: Path) -> Iterator[None]:
    """Say what is wrong with weights in a sentence, of the folder that the user named."""
    from safetensors import SafetensorError

    try:
        yield
    except EffirError as error:
        raise EffirError(str(error).replace(str(stand_in), str(folder))) from None
    except (SafetensorError, RuntimeError, ValueError) as error:  # damaged, a pointer of Git LFS, of another size
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise EffirError(f"the weights in {folder} do not fit or are damaged ({reason}): fetch them again") from None


def _base_of(adapter: Path, base: Path | None) -> Path:
    named = base or Path(str(read_json(adapter / ADAPTER).get("base_model_name_or_path") or ""))
    for folder in (named, adapter / named):
        if (folder / "config.json").is_file():
            return folder
    raise EffirError(f"{adapter} is an adapter over {named}, which is not here: fetch it, and name it with --base")


def _refuse_pickles(folder: Path) -> None:
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled and not any(folder.glob("*.safetensors")):
        raise EffirError(
            f"{folder} has only pickled weights ({pickled[0]}), which can run code: open it where you trust it, "
            "and save it with `save_pretrained`, which writes safetensors"
        )


def _plain(folder: Path, into: Path) -> ModelShape:
    """Show a checkpoint as the ordinary one of its family, by links, and return the shape that it names."""
    if not (folder / "config.json").is_file():
        raise EffirError(f"{folder} has neither config.json nor {ADAPTER}: name the folder of a model or of an adapter")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or not LISTS.keys() & config.keys():
        raise EffirError(f"{folder / 'config.json'} names no dropped sublayers ({', '.join(LISTS)}): nothing to import")
    into.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.name != "config.json":
            (into / path.name).symlink_to(path.resolve())
    write_json(into / "config.json", {key: value for key, value in config.items() if key not in UNREAD})
    with _told_of(folder, into):
        shape = shape_of(into)
    for key, sublayer in LISTS.items():
        shape = shape.without(sublayer, _layers(config.get(key) or [], shape.layers, key))  # type: ignore[arg-type]
    return shape


def _layers(named: Any, layers: int, key: str) -> list[int]:
    """Read a list of layers, or of a truth value a layer.

    >>> _layers([3, 1], 4, "drop_mlp_list"), _layers([False, True, False, True], 4, "drop_mlp_list")
    ([1, 3], [1, 3])
    """
    if isinstance(named, list) and len(named) == layers and all(isinstance(each, bool) for each in named):
        return [layer for layer, dropped in enumerate(named) if dropped]
    if isinstance(named, list) and all(type(each) is int for each in named):
        return sorted(set(named))
    raise EffirError(f"config.json: {key} must list layers, or a truth value for each of {layers}: mend it")


def _fold(adapter: Path, cut: Path, scratch: Path, into: Path) -> None:
    """Multiply a LoRA adapter into the weights of a checkpoint."""
    from peft import PeftModel
    from safetensors.torch import load_file, save_file
    from transformers import AutoModel

    config = read_json(adapter / ADAPTER)
    _check_adapter(adapter, config)
    model = AutoModel.from_pretrained(cut, dtype="auto")
    there = {name for name, _ in model.named_modules()}
    weights = load_file(adapter / ADAPTER_WEIGHTS)
    found, prefix = _named(weights), "model." if any(key.startswith(OVER_HEAD) for key in weights) else ""
    kept = {f"base_model.model.{key}": tensor for key, tensor in found.items() if _module(key) in there}
    gone = tuple(f"layers.{layer}.{name}" for layer, each in enumerate(model.layers) for name in _lost(each))
    if lost := sorted(key for key in found if _module(key) not in there and not key.startswith(gone)):
        raise EffirError(
            f"{adapter / ADAPTER_WEIGHTS} adapts {lost[0]}, which the model under it does not have: name by --base the "
            "one that it was trained over"
        )
    if not kept:
        raise EffirError(
            f"{adapter / ADAPTER_WEIGHTS} adapts nothing that is left of the model under it: import that without it"
        )
    scratch.mkdir()
    save_file(kept, scratch / ADAPTER_WEIGHTS)
    modules = {here: f"{prefix}{here}" for here in sorted({_module(key) for key in found} & there)}
    write_json(scratch / ADAPTER, {**config, **_one_by_one(config, modules), "base_model_name_or_path": str(cut)})
    loaded = PeftModel.from_pretrained(model, scratch)
    save_model(loaded.merge_and_unload(), cut, into)


def _check_adapter(adapter: Path, config: Mapping[str, Any]) -> None:
    if not (adapter / ADAPTER_WEIGHTS).is_file():
        _refuse_pickles(adapter)
        raise EffirError(f"{adapter} has no {ADAPTER_WEIGHTS}: fetch the adapter again")
    more = [key for key in MORE_THAN_LORA if config.get(key)]
    more += ["bias"] if config.get("bias", "none") != "none" else []
    if config.get("peft_type") != "LORA" or more:
        raise EffirError(
            f"{adapter / ADAPTER} is {config.get('peft_type')}{' with ' + more[0] if more else ''}, not plain LoRA: "
            "merge it with peft, and import the merged model"
        )


def _named(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Name an adapter's tensors as a model without LM head does, whichever it was trained on; that head is left out."""
    bare = {key.removeprefix("base_model.model.").removeprefix("model."): tensor for key, tensor in tensors.items()}
    return {key: tensor for key, tensor in bare.items() if not key.startswith("lm_head.")}


def _one_by_one(config: Mapping[str, Any], modules: Mapping[str, str]) -> dict[str, Any]:
    """Say of each module alone what an adapter's config says by patterns; ``modules`` maps its name here to that there.

    A name, a pattern or a layer in the config is of the model that the adapter was trained on, which may have a prefix.
    """
    from peft.utils.other import get_pattern_key

    said: dict[str, Any] = {"target_modules": list(modules), "task_type": None}
    said |= dict.fromkeys(("layers_to_transform", "layers_pattern", "exclude_modules"))
    for kind in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(kind) or {}
        found = {here: get_pattern_key(patterns, there) for here, there in modules.items()}
        said[kind] = {re.escape(here): patterns[key] for here, key in found.items() if key in patterns}
    return said


def _lost(layer: Any) -> list[str]:
    from effir.model.modeling import DroppedAttention, DroppedMLP

    kinds = {"self_attn": DroppedAttention, "mlp": DroppedMLP}
    return [f"{name}." for name, kind in kinds.items() if isinstance(getattr(layer, name), kind)]


def _module(key: str) -> str:
    """Name the module that a tensor adapts.

    >>> _module("layers.0.mlp.up_proj.lora_A.weight")
    'layers.0.mlp.up_proj'
    """
    return key.partition(".lora_")[0]
