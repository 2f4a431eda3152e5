"""Import: checkpoints of LLM-Drop and of EffiR's authors, with or without a LoRA adapter, as effir checkpoints."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from effir.compress.adapter import merge_adapter, refuse_pickles
from effir.compress.cut import cut_checkpoint
from effir.data.base_model import ADAPTER
from effir.errors import EffirError
from effir.files import read_json, write_json
from effir.model.shape import ModelShape, Sublayer, read_config, shape_of
from effir.model.weights import check_names, expected_shapes, stored_weights

DROP_LISTS: Mapping[str, Sublayer] = {"drop_mlp_list": "mlp", "drop_attn_list": "attention"}
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
    refuse_pickles(model)
    with tempfile.TemporaryDirectory() as place:
        plain, merged = Path(place) / "plain", Path(place) / "merged"
        shape = _link_as_plain(model, plain)
        with _errors_about(model, plain):
            _check_model(plain, shape)
        if has_adapter:
            with _errors_about(folder, plain):
                merge_adapter(folder, model, plain, merged)
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


def _check_model(plain: Path, shape: ModelShape) -> None:
    """Check that the model has the weights of its config, except for those of dropped sublayers, and no others."""
    config = read_config(plain)
    widths, kept = list(shape.mlp_widths), list(shape.attention_kept)
    uncut = expected_shapes(config, shape.family)
    cut = expected_shapes({**config, "mlp_widths": widths, "attention_kept": kept}, shape.family)
    check_names(uncut, {name: name for name in stored_weights(plain)}, str(plain), uncut.keys() - cut.keys())


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
