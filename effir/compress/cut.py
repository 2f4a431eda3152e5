"""Cut: a checkpoint to a ModelShape, exactly, with one shard in memory at a time."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from effir.errors import EffirError
from effir.files import write_json, writing
from effir.model import modeling
from effir.model.checkpoint import tokenizer_class
from effir.model.shape import ModelShape, family_of, read_config, shape_of
from effir.model.weights import INDEX, WEIGHTS, Shapes, expected_shapes, plain_name, weight_files

Channels = Mapping[int, Sequence[int]]
Gates = Mapping[int, Tensor]

WEIGHT_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# The dimension of an MLP weight along which its channels lie.
CHANNEL_DIMENSION = {"gate_proj.weight": 0, "gate_proj.bias": 0, "up_proj.weight": 0, "up_proj.bias": 0}
CHANNEL_DIMENSION["down_proj.weight"] = 1
TOKENIZER_FILES = ("tokenizer*", "*.model", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt")
COPIED_FILES = (*TOKENIZER_FILES, "chat_template*", "LICENSE*", "NOTICE*")


def cut_checkpoint(
    source: Path, into: Path, shape: ModelShape, channels: Channels | None = None, gates: Gates | None = None
) -> None:
    """Cut the checkpoint ``source``, uncompressed or cut before, to ``shape`` and write it to the folder ``into``.

    ``channels[layer]`` lists the MLP channels to keep, by their index in ``source``, for every width that shrinks.
    ``gates[layer]``, of shape (width in ``source``,), multiplies the channels and is folded into ``down_proj``.
    The result computes the same as ``source`` with the rest zeroed, and stores no cut weight.
    EffirError if shape, channels, gates and source disagree; then ``into`` does not change.
    """
    if into.resolve() == source.resolve():
        raise EffirError(f"{source} cannot be cut onto itself: name another folder to write to")
    channels, gates, before = channels or {}, gates or {}, shape_of(source)
    _check_shape(before, shape)
    narrowed = [layer for layer in shape.having("mlp") if shape.mlp_widths[layer] < before.mlp_widths[layer]]
    for layer in {*channels, *narrowed}:
        _check_channels(layer, channels.get(layer), before, shape)
    for layer, gate in gates.items():
        width = before.mlp_widths[layer] if 0 <= layer < before.layers else 0
        if gate.shape != (width,):
            there = f"{width} channels, but its gates have shape {tuple(gate.shape)}"
            raise EffirError(f"layer {layer}'s MLP has {there}: give one gate per channel")
    config = _cut_config(source, shape)
    expected = expected_shapes(config, shape.family)
    with writing(into) as draft:
        draft.mkdir()
        kept = {layer: sorted(channels[layer]) for layer in narrowed}
        _cut_weights(source, draft, kept, gates, expected)
        write_json(draft / "config.json", config)
        shutil.copyfile(modeling.__file__, draft / "modeling.py")
        _copy_tokenizer(source, draft)


def _check_shape(before: ModelShape, shape: ModelShape) -> None:
    if (before.family, before.cost, before.layers) != (shape.family, shape.cost, shape.layers):
        raise EffirError(f"the shape to cut to is of another {shape.family} model: read it from the checkpoint to cut")
    before.with_mlp_widths(shape.mlp_widths)
    for layer in set(shape.having("attention")) - set(before.having("attention")):
        raise EffirError(f"layer {layer} has no attention to keep: it was dropped before")


def _check_channels(layer: int, kept: Sequence[int] | None, before: ModelShape, shape: ModelShape) -> None:
    if not 0 <= layer < before.layers:
        raise EffirError(f"layer {layer} is not there: the model has {before.layers} layers, 0 to {before.layers - 1}")
    width, wanted = before.mlp_widths[layer], shape.mlp_widths[layer]
    if kept is None:
        raise EffirError(f"layer {layer}'s MLP goes from {width} to {wanted} channels: list the channels to keep")
    if len(kept) != wanted or len(set(kept)) != wanted:
        listed = f"{len(set(kept))} different ones are listed: list each channel once"
        raise EffirError(f"layer {layer}'s MLP keeps {wanted} channels, but {listed}")
    if any(not 0 <= channel < width for channel in kept):
        raise EffirError(f"layer {layer}'s MLP has channels 0 to {width - 1}, not {min(kept)} to {max(kept)}: fix it")


def _cut_config(source: Path, shape: ModelShape) -> dict[str, Any]:
    config = read_config(source)
    family = family_of(config, source)
    model_class = modeling.FAMILIES[family]
    configured, model = model_class.config_class.__name__, model_class.__name__
    config.update(
        model_type=f"effir_{family}",
        architectures=[model],
        auto_map={"AutoConfig": f"modeling.{configured}", "AutoModel": f"modeling.{model}"},
        mlp_widths=list(shape.mlp_widths),
        attention_kept=list(shape.attention_kept),
        use_cache=False,
    )
    return config


def _cut_weights(source: Path, draft: Path, kept: dict[int, list[int]], gates: Gates, expected: Shapes) -> None:
    shards, missing, weight_map, total = weight_files(source), set(expected), {}, 0
    for shard in shards:
        with safe_open(shard, framework="pt") as file:
            wanted = {plain_name(name): name for name in sorted(file.keys()) if plain_name(name) in missing}
            tensors = {name: _cut(name, file.get_tensor(stored), kept, gates) for name, stored in wanted.items()}
        _check_shapes(tensors, expected, shard)
        missing -= set(tensors)
        if tensors:
            save_file(tensors, draft / shard.name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, shard.name))
        total += sum(tensor.nbytes for tensor in tensors.values())
    if missing:
        raise EffirError(f"{source} holds no {min(missing)}: give a complete checkpoint in the layout of Hugging Face")
    if [shard.name for shard in shards] != [WEIGHTS]:  # also one shard that has the name of a part
        write_json(draft / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _cut(name: str, tensor: Tensor, kept: dict[int, list[int]], gates: Gates) -> Tensor:
    """Scale the channels of an MLP weight by their gates and keep those that stay; return other tensors unchanged."""
    found = re.fullmatch(r"layers\.(\d+)\.mlp\.(.+)", name)
    if found is None:
        return tensor
    layer, weight = int(found[1]), found[2]
    if layer in gates and weight == "down_proj.weight":
        tensor = (tensor.float() * gates[layer].float().cpu()).to(tensor.dtype)
    if layer in kept and weight in CHANNEL_DIMENSION:
        tensor = tensor.index_select(CHANNEL_DIMENSION[weight], torch.tensor(kept[layer])).contiguous()
    return tensor


def _check_shapes(tensors: dict[str, Tensor], expected: Shapes, shard: Path) -> None:
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != expected[name] or tensor.dtype not in WEIGHT_TYPES:
            found = f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}"
            fix = "give an unquantised checkpoint whose weights belong to its config"
            raise EffirError(f"{shard}: {found}, but config.json asks for shape {expected[name]}: {fix}")


def _copy_tokenizer(source: Path, draft: Path) -> None:
    """Copy the tokenizer and the licences. Record its class, which transformers would look up by ``model_type``."""
    files = {path for pattern in COPIED_FILES for path in source.glob(pattern) if path.is_file()}
    for path in sorted(files):
        shutil.copyfile(path, draft / path.name)
    settings = draft / "tokenizer_config.json"
    if settings.is_file():
        said = json.loads(settings.read_text())
        settings.write_text(json.dumps({**said, "tokenizer_class": tokenizer_class(source)}, indent=2))
