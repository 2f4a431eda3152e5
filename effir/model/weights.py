"""The weights that a checkpoint stores, against those that its config.json asks for."""

import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from effir.errors import EffirError
from effir.files import read_json, write_json
from effir.model.shape import family_of, read_config

Shapes = dict[str, tuple[int, ...]]

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
NUMBER_FORMATS = ("F32", "BF16", "F16", "F64")
# torch.compile, FSDP and activation checkpointing put their name into the middle of a weight's name.
WRAPPERS = re.compile(r"\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# DDP, peft, sentence-transformers, multimodal models and an LM head put theirs before it.
PREFIXES = re.compile(r"^(?:module\.|base_model\.|0\.|auto_model\.|language_model\.|model\.)+")
BODY = ("embed_tokens.", "layers.", "norm.")


def plain_name(stored: str) -> str:
    """Name a stored weight as the model without LM head does.

    >>> plain_name("model.norm.weight"), plain_name("module._orig_mod.model.layers.0.mlp._orig_mod.up_proj.weight")
    ('norm.weight', 'layers.0.mlp.up_proj.weight')
    """
    return PREFIXES.sub("", WRAPPERS.sub("", stored))


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a checkpoint that transformers reads; EffirError names a missing one."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise EffirError(f"{folder} has no weights in {WEIGHTS}: give a complete checkpoint in safetensors")
    index = read_json(folder / INDEX)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places:
        raise EffirError(f"{folder / INDEX} has no weight_map: download it again")
    names = sorted({str(name) for name in places.values()})
    if missing := [name for name in names if Path(name).name != name or not (folder / name).is_file()]:
        raise EffirError(f"{folder} lacks {missing[0]}, which {INDEX} names: download the folder again")
    return [folder / name for name in names]


def expected_shapes(config: Mapping[str, Any], family: str) -> Shapes:
    """Return the shapes of all weights that a model of this config has, without an LM head; no memory is used."""
    import torch

    from effir.model.modeling import FAMILIES

    model_class = FAMILIES[family]
    with torch.device("meta"):
        model = model_class(model_class.config_class.from_dict({**config, "model_type": f"effir_{family}"}))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def check_weights(folder: Path, source: str) -> Shapes:
    """Compare names, shapes and number formats of the stored weights with config.json; return the shapes asked for.

    Only the headers of the files are read. EffirError, about ``source``, for a weight that is missing, that is of
    another shape or quantised, and for a weight of the decoder that the config has no place for.
    """
    config = read_config(folder)
    expected, stored = _asked_for(config, family_of(config, Path(source)), source), dict[str, str]()
    for file in weight_files(folder):
        for name, shape, numbers in _headers(file, source):
            plain = plain_name(name)
            if plain in stored:
                raise EffirError(f"{source} stores {plain} twice, as {stored[plain]} and {name}: remove one of them")
            stored[plain] = name
            if plain in expected and (shape != expected[plain] or numbers not in NUMBER_FORMATS):
                asked = f"but config.json asks for shape {expected[plain]}"
                fix = "name an unquantised checkpoint whose weights belong to its config"
                raise EffirError(f"{source}: {name} is {numbers} of shape {shape}, {asked}: {fix}")
    check_names(expected, stored, source)
    return expected


def check_names(expected: Shapes, stored: Mapping[str, str], source: str, may_lack: Collection[str] = ()) -> None:
    """Compare the plain names of the ``stored`` weights, which map to their own, with those that are ``expected``.

    EffirError, about ``source``, for a name that is missing, unless it is in ``may_lack``, or left over.
    """
    if missing := sorted(expected.keys() - stored.keys() - set(may_lack)):
        count = f"{len(missing)} of the {len(expected)} weights that its config.json asks for, {missing[0]} among them"
        raise EffirError(f"{source} lacks {count}: download it again, or name a complete checkpoint")
    unknown = [name for name in sorted(stored.keys() - expected.keys()) if name.startswith(BODY)]
    if unknown := [name for name in unknown if not name.endswith("rotary_emb.inv_freq")]:  # computed since 2023
        fix = "correct num_hidden_layers, or the keys of biases and norms"
        raise EffirError(f"{source} stores {stored[unknown[0]]}, for which its config.json has no place: {fix}")


def stored_weights(folder: Path) -> dict[str, Callable[[], Tensor]]:
    """Map the plain name of each stored weight to a function that reads it."""

    def read(file: Path, stored: str) -> Tensor:
        with safe_open(file, framework="pt") as weights:
            tensor: Tensor = weights.get_tensor(stored)
            return tensor

    places = dict[str, Callable[[], Tensor]]()
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as weights:
            places |= {plain_name(stored): partial(read, file, stored) for stored in weights.keys()}
    return places


def copy_weights(folder: Path, into: Path) -> None:
    """Copy the weights that :func:`check_weights` found right; rename those that transformers would not recognise."""
    files = weight_files(folder)
    places = {file: [name for name, _, _ in _headers(file, str(folder))] for file in files}
    if all(plain_name(name) in (name, name.removeprefix("model.")) for names in places.values() for name in names):
        for file in [*files, folder / INDEX] if files != [folder / WEIGHTS] else files:
            shutil.copyfile(file, into / file.name)
        return
    _rename_weights(places, into)


def _rename_weights(places: Mapping[Path, list[str]], into: Path) -> None:
    from safetensors.torch import save_file

    weight_map, total = dict[str, str](), 0
    for file, names in places.items():
        with safe_open(file, framework="pt") as weights:
            tensors = {plain_name(name): weights.get_tensor(name) for name in names}
        save_file(tensors, into / file.name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file.name)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if [file.name for file in places] != [WEIGHTS]:
        write_json(into / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _headers(file: Path, source: str) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Yield name, shape and number format of each tensor in a safetensors file."""
    try:
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():
                tensor = weights.get_slice(name)
                yield name, tuple(tensor.get_shape()), str(tensor.get_dtype())
    except SafetensorError as error:  # cut short, or a Git LFS pointer
        raise EffirError(f"{source}: {file.name} is damaged ({error}): download it again") from None


def _asked_for(config: Mapping[str, Any], family: str, source: str) -> Shapes:
    try:
        return expected_shapes(config, family)
    except Exception as error:  # transformers raises many types for sizes that contradict each other
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise EffirError(f"{source}: its config.json describes no model ({reason}): download it again") from error
