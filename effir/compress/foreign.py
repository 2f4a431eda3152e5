"""Import: checkpoints of LLM-Drop and of EffiR's authors, with or without a LoRA adapter, as effir checkpoints."""

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from effir.compress.cut import cut_checkpoint
from effir.data.base_model import PICKLED
from effir.errors import EffirError
from effir.files import read_json, write_json
from effir.model.checkpoint import save_model
from effir.model.shape import ModelShape, Sublayer, shape_of

DROP_LISTS: Mapping[str, Sublayer] = {"drop_mlp_list": "mlp", "drop_attn_list": "attention"}
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MORE_THAN_LORA = ("modules_to_save", "use_dora", "trainable_token_indices", "alora_invocation_tokens")
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
                _merge_adapter(folder, model, plain, merged)
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


def _merge_adapter(adapter: Path, base: Path, plain: Path, into: Path) -> None:
    """Merge a LoRA adapter as peft does, into ``plain``: the model ``base`` with all of its sublayers."""
    from peft import PeftConfig, PeftModel
    from transformers import AutoModel, AutoModelForCausalLM

    _check_adapter(adapter, read_json(adapter / ADAPTER))
    with safe_open(adapter / ADAPTER_WEIGHTS, framework="pt") as file:
        adapted = sorted({key.partition(".lora_")[0].removeprefix("base_model.model.") for key in file.keys()})
    with_head = any(name.startswith(("model.", "lm_head")) for name in adapted)
    with _errors_about(base, plain):
        model = (AutoModelForCausalLM if with_head else AutoModel).from_pretrained(plain, dtype="auto")
    if unknown := set(adapted) - {name for name, _ in model.named_modules()}:
        reason = "which the model under it does not have: name with --base the model that it was trained on"
        raise EffirError(f"{adapter / ADAPTER_WEIGHTS} adapts {min(unknown)}, {reason}")
    config = PeftConfig.from_pretrained(adapter)
    config.task_type = None  # or peft asks for the methods of a model of that task
    config.init_lora_weights = True  # modules without tensors in the adapter do not change
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found missing adapter keys")  # those of dropped sublayers
        adapted_model = PeftModel.from_pretrained(model, adapter, config=config)
    save_model(adapted_model.merge_and_unload(), plain, into)


def _check_adapter(adapter: Path, config: Mapping[str, Any]) -> None:
    if not (adapter / ADAPTER_WEIGHTS).is_file():
        _refuse_pickles(adapter)
        raise EffirError(f"{adapter} has no {ADAPTER_WEIGHTS}: download the adapter again")
    more = [key for key in MORE_THAN_LORA if config.get(key)]
    more += ["bias"] if config.get("bias", "none") != "none" else []
    if config.get("peft_type") != "LORA" or more:
        kind = f"{config.get('peft_type')}{' with ' + more[0] if more else ''}, not plain LoRA"
        raise EffirError(f"{adapter / ADAPTER} is {kind}: merge it with peft, and import the merged model")
