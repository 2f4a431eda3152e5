"""Cut: a checkpoint to a ModelShape, exactly, tensor by tensor and one shard in memory at a time."""

import json
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from effir.errors import EffirError
from effir.files import read_json, write_json, writing
from effir.model import modeling
from effir.model.shape import ModelShape, family_of, read_config, shape_of

Channels = Mapping[int, Sequence[int]]
Gates = Mapping[int, Tensor]
Shapes = dict[str, tuple[int, ...]]

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
WEIGHT_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# The dimension of an MLP weight along which its channels lie.
CHANNEL_DIMENSION = {
    "gate_proj.weight": 0,
    "up_proj.weight": 0,
    "gate_proj.bias": 0,
    "up_proj.bias": 0,
    "down_proj.weight": 1,
}
TOKENIZER_FILES = (
    "tokenizer*",
    "*.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
    "LICENSE*",  # a licence goes with the weights that it covers
    "NOTICE*",
)


def cut_checkpoint(
    source: Path, into: Path, shape: ModelShape, channels: Channels | None = None, gates: Gates | None = None
) -> None:
    """Write the checkpoint ``source``, whole or already cut, to the folder ``into`` as a model of shape ``shape``.

    ``channels[layer]`` names the MLP channels that stay, by their index in ``source``, wherever a width shrinks.
    The result computes what ``source`` would with the rest zeroed; no cut weight is stored. ``gates[layer]``, of shape
    (width in ``source``,), multiplies the channels: it is folded into ``down_proj``, so that it costs nothing.
    EffirError where shape, channels, gates and source do not agree; then ``into`` is left as it was.
    """
    if into.resolve() == source.resolve():
        raise EffirError(f"{source} cannot be cut onto itself: name another folder to write to")
    whole = shape_of(source)
    kept = _checked_channels(whole, shape, channels or {})
    _check_gates(gates or {}, whole)
    config = _cut_config(source, shape)
    with writing(into) as draft:
        draft.mkdir()
        _cut_weights(source, draft, kept, gates or {}, _expected(config, shape.family))
        write_json(draft / "config.json", config)
        shutil.copyfile(modeling.__file__, draft / "modeling.py")
        _copy_tokenizer(source, draft)


def _checked_channels(whole: ModelShape, shape: ModelShape, channels: Channels) -> dict[int, list[int]]:
    """Sort the channels that stay, by layer; EffirError unless ``shape`` can be cut out of ``whole`` with them."""
    if (whole.family, whole.cost) != (shape.family, shape.cost) or whole.layers != shape.layers:
        raise EffirError(f"the shape to cut to is of another {shape.family} model: read it from the checkpoint to cut")
    whole.with_mlp_widths(shape.mlp_widths)
    for layer in set(shape.having("attention")) - set(whole.having("attention")):
        raise EffirError(f"layer {layer} has no attention left to keep: it was dropped before")
    narrowed = [layer for layer in shape.having("mlp") if shape.mlp_widths[layer] < whole.mlp_widths[layer]]
    for layer in {*channels, *narrowed}:
        _check_layer(layer, channels.get(layer), whole, shape)
    return {layer: sorted(channels[layer]) for layer in narrowed}


def _check_layer(layer: int, kept: Sequence[int] | None, whole: ModelShape, shape: ModelShape) -> None:
    if not 0 <= layer < whole.layers:
        raise EffirError(f"layer {layer} is not there: the model has {whole.layers} layers, 0 to {whole.layers - 1}")
    there, wanted = whole.mlp_widths[layer], shape.mlp_widths[layer]
    if kept is None:
        raise EffirError(f"layer {layer}'s MLP goes from {there} to {wanted} channels: name those that stay")
    if len(kept) != wanted or len(set(kept)) != wanted:
        raise EffirError(
            f"layer {layer}'s MLP keeps {wanted} channels, but {len(set(kept))} different ones are named: name each "
            "once"
        )
    if any(not 0 <= channel < there for channel in kept):
        raise EffirError(
            f"layer {layer}'s MLP has channels 0 to {there - 1}, not {min(kept)} to {max(kept)}: name "
            "those that are there"
        )


def _check_gates(gates: Gates, whole: ModelShape) -> None:
    for layer, gate in gates.items():
        there = whole.mlp_widths[layer] if 0 <= layer < whole.layers else 0
        if gate.shape != (there,):
            raise EffirError(
                f"layer {layer}'s MLP has {there} channels, but gates of shape {tuple(gate.shape)} are given: give "
                "one a channel"
            )


def _cut_config(source: Path, shape: ModelShape) -> dict[str, Any]:
    config = read_config(source)
    family = family_of(config, source)
    model_class = modeling.FAMILIES[family]
    config.update(
        model_type=f"effir_{family}",
        architectures=[model_class.__name__],
        auto_map={
            "AutoConfig": f"modeling.{model_class.config_class.__name__}",
            "AutoModel": f"modeling.{model_class.__name__}",
        },
        mlp_widths=list(shape.mlp_widths),
        attention_kept=list(shape.attention_kept),
        use_cache=False,
    )
    return config


def _expected(config: dict[str, Any], family: str) -> Shapes:
    """Name the tensors of the cut model, and their shapes, by building it where it costs no memory."""
    model_class = modeling.FAMILIES[family]
    with torch.device("meta"):
        model = model_class(model_class.config_class.from_dict(config))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _cut_weights(source: Path, draft: Path, kept: dict[int, list[int]], gates: Gates, expected: Shapes) -> None:
    shards, missing, weight_map, total = _shards(source), set(expected), {}, 0
    for shard in shards:
        tensors = {name: _cut(name, _gated(name, tensor, gates), kept) for name, tensor in _stored(shard, missing)}
        _check_shapes(tensors, expected, shard)
        missing -= set(tensors)
        if tensors:
            save_file(tensors, draft / shard.name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, shard.name))
        total += sum(tensor.nbytes for tensor in tensors.values())
    if missing:
        raise EffirError(f"{source} holds no {min(missing)}: it is incomplete or not in the layout of Hugging Face")
    if len(shards) > 1:
        write_json(draft / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _shards(source: Path) -> list[Path]:
    """List a checkpoint's safetensors files; EffirError names one that is not there."""
    names = [WEIGHTS]
    if (source / INDEX).is_file() and not (source / WEIGHTS).is_file():
        names = sorted(set(read_json(source / INDEX)["weight_map"].values()))
    for name in names:
        if Path(name).name != name or not (source / name).is_file():
            raise EffirError(f"{source} has no weights in {name}: give a complete checkpoint in safetensors")
    return [source / name for name in names]


def _stored(shard: Path, wanted: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """Read a shard's wanted tensors one by one, named as the model without an LM head names them."""
    with safe_open(shard, framework="pt") as file:
        for name in sorted(file.keys()):
            if name.removeprefix("model.") in wanted:
                yield name.removeprefix("model."), file.get_tensor(name)


def _gated(name: str, tensor: Tensor, gates: Gates) -> Tensor:
    """Multiply the columns of a ``down_proj`` by its layer's gates; return any other tensor as it is."""
    found = re.fullmatch(r"layers\.(\d+)\.mlp\.down_proj\.weight", name)
    if found is None or int(found[1]) not in gates:
        return tensor
    return (tensor.float() * gates[int(found[1])].float().cpu()).to(tensor.dtype)


def _cut(name: str, tensor: Tensor, kept: dict[int, list[int]]) -> Tensor:
    """Take the channels that stay out of an MLP weight; return any other tensor as it is."""
    found = re.fullmatch(r"layers\.(\d+)\.mlp\.(.+)", name)
    if found is None or int(found[1]) not in kept or found[2] not in CHANNEL_DIMENSION:
        return tensor
    return tensor.index_select(CHANNEL_DIMENSION[found[2]], torch.tensor(kept[int(found[1])])).contiguous()


def _check_shapes(tensors: dict[str, Tensor], expected: Shapes, shard: Path) -> None:
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != expected[name] or tensor.dtype not in WEIGHT_TYPES:
            raise EffirError(
                f"{shard}: {name} is {tensor.dtype} of shape {tuple(tensor.shape)}, but config.json wants numbers "
                f"of shape {expected[name]}: give an unquantised checkpoint whose weights belong to its config"
            )


def _copy_tokenizer(source: Path, draft: Path) -> None:
    """Copy the tokenizer, and name its class: transformers would else choose it by the uncut ``model_type``."""
    files = {path for pattern in TOKENIZER_FILES for path in source.glob(pattern) if path.is_file()}
    for path in sorted(files):
        shutil.copyfile(path, draft / path.name)
    settings = draft / "tokenizer_config.json"
    if settings.is_file():
        from transformers import AutoTokenizer

        chosen = type(AutoTokenizer.from_pretrained(source)).__name__
        settings.write_text(json.dumps({**json.loads(settings.read_text()), "tokenizer_class": chosen}, indent=2))
