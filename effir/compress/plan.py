"""Foresee: what a cut would cost, from config.json alone."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from effir.compress.drop_order import Droppable
from effir.data.sources import parse_source
from effir.errors import EffirError
from effir.model.shape import ModelShape, shape_of

BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}


@dataclass(frozen=True)
class Plan:
    """A model and its cut: parameters without the LM head, FLOPs a token of a causal text of ``tokens`` tokens.

    The cut drops ``depth`` sublayers of one kind and keeps the share ``width`` of the remaining MLP channels.
    """

    name: str
    sublayer: Droppable
    depth: int
    width: float
    whole: ModelShape
    cut: ModelShape
    hidden: int
    tokens: int

    @property
    def kept_share(self) -> float:
        """The share of the non-embedding parameters that is kept."""
        return self.cut.parameters(embeddings=False) / self.whole.parameters(embeddings=False)

    @property
    def flops_speedup(self) -> float:
        """How many times fewer FLOPs a token of such a text takes."""
        return self.whole.flops_per_token(self.tokens) / self.cut.flops_per_token(self.tokens)

    def weights(self, arithmetic: str) -> tuple[int, int]:
        """Bytes of the weights of the uncompressed and of the cut model in ``float32``, ``bfloat16`` or ``int8``."""
        return self.whole.parameters() * BYTES[arithmetic], self.cut.parameters() * BYTES[arithmetic]

    def as_json(self) -> dict[str, object]:
        """Return every figure, pairs as (uncompressed, cut)."""
        shapes = (self.whole, self.cut)
        return {
            "model": self.name,
            "sublayer": self.sublayer,
            "depth": self.depth,
            "width": self.width,
            "parameters": [shape.parameters() for shape in shapes],
            "parameters_without_embeddings": [shape.parameters(embeddings=False) for shape in shapes],
            "kept_share": self.kept_share,
            "tokens": self.tokens,
            "flops_per_token": [shape.flops_per_token(self.tokens) for shape in shapes],
            "flops_speedup": self.flops_speedup,
            "weight_bytes": {arithmetic: list(self.weights(arithmetic)) for arithmetic in BYTES},
            "vector_bytes": self.hidden * BYTES["float32"],
        }


def plan(model: str, sublayer: Droppable, depth: int, width: float, tokens: int) -> Plan:
    """Foresee a cut of ``model``: a hub id, a checkpoint's folder, or its config.json; weights are not read.

    EffirError where there is no such configuration, or no such cut of it.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shutil.copyfile(config := _config(model), folder / "config.json")
        try:
            whole = shape_of(folder)
        except EffirError as error:
            said = str(error).replace(str(folder / "config.json"), str(config)).replace(str(folder), model)
            raise EffirError(said) from None
    cut = planned(whole, sublayer, depth, width)
    if not cut.having("block"):
        raise EffirError(f"dropping {depth} sublayers of kind {sublayer} leaves no layer: drop fewer")
    return Plan(model, sublayer, depth, width, whole, cut, whole.cost.final_norm, tokens)


def planned(shape: ModelShape, sublayer: Droppable, depth: int, width: float) -> ModelShape:
    """Drop ``depth`` sublayers and keep the share ``width`` of the remaining channels, the same in every layer.

    Which layers are dropped and how channels are spread does not change the size; widths are rounded later, by less
    than 1 %. EffirError where the model has fewer sublayers, or ``sublayer`` mixes kinds of two sizes.
    """
    if sublayer == "attention_or_mlp":
        reason = "so the size of the cut is not known before it is made"
        raise EffirError(f"attention_or_mlp drops sublayers of two sizes, {reason}: choose mlp, attention or block")
    most = len(there := shape.having(sublayer))
    if not 0 <= depth <= most:
        raise EffirError(f"the depth is {depth}, but the model has {most} {sublayer} sublayers: choose 0 to {most}")
    dropped = shape.without(sublayer, there[:depth])
    return dropped.with_mlp_widths([round(width * one) for one in dropped.mlp_widths])


def _config(model: str) -> Path:
    path = Path(model).expanduser()
    if path.exists():
        found = path / "config.json" if path.is_dir() else path
        if not found.is_file():
            raise EffirError(f"{path} is not a Hugging Face checkpoint: it has no config.json. Name another folder")
        return found
    name = model if model.startswith("hub:") else f"hub:{model}"
    try:
        source = parse_source(name)
    except EffirError:
        raise EffirError(f"{model} is neither a path nor a hub id: name a folder, config.json, or owner/name") from None
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source.name, "config.json", revision=source.revision))
    except Exception as error:  # the hub's transport, and so its errors, differ from version to version
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        fix = "check the name and the network, or name a local folder or config.json"
        raise EffirError(f"the config.json of {source.name} could not be downloaded ({reason}): {fix}") from None
