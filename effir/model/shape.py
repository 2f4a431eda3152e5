"""The shape of a model: which sublayers are kept, how wide each MLP is, and its parameters and FLOPs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from effir.errors import EffirError
from effir.files import read_json

Sublayer = Literal["mlp", "attention", "block"]


@dataclass(frozen=True)
class LayerCost:
    """Parameters of one uncut decoder layer, of the embeddings and of the final norm.

    ``attention`` and ``mlp_fixed`` include the norms of their sublayer; ``mlp_fixed``, the cost of an MLP at any width,
    also the bias of ``down_proj``. ``channel`` is one MLP channel: a row of gate and up, a column of down, and biases.
    """

    attention: int
    attention_matmul: int
    mlp_fixed: int
    channel: int
    channel_matmul: int
    embedding: int
    final_norm: int
    query_width: int  # heads x head size


@dataclass(frozen=True)
class ModelShape:
    """The sublayers of a model: MLP widths (0 = dropped) and kept attentions, one entry per layer.

    ``is_cut`` tells whether the shape was read from a checkpoint that effir wrote; comparisons ignore it.
    """

    family: str
    mlp_widths: tuple[int, ...]
    attention_kept: tuple[bool, ...]
    cost: LayerCost
    is_cut: bool = field(compare=False)

    def __post_init__(self) -> None:
        if len(self.mlp_widths) != len(self.attention_kept):
            lengths = f"{len(self.mlp_widths)} layers and attention_kept {len(self.attention_kept)}"
            raise EffirError(f"mlp_widths has {lengths}: give one entry per layer in both")
        for layer, width in enumerate(self.mlp_widths):
            if width < 0:
                raise EffirError(f"layer {layer}'s MLP cannot have {width} channels: keep 0 (drops it) or more")

    @property
    def layers(self) -> int:
        """The number of decoder layers, including those without sublayers."""
        return len(self.mlp_widths)

    def having(self, sublayer: Sublayer) -> list[int]:
        """List the layers that have the sublayer; a block counts while its attention or MLP is kept."""
        mlps, attentions = [width > 0 for width in self.mlp_widths], self.attention_kept
        there = {"mlp": mlps, "attention": attentions, "block": [a or m for a, m in zip(attentions, mlps, strict=True)]}
        return [layer for layer, has in enumerate(there[sublayer]) if has]

    def without(self, sublayer: Sublayer, layers: Sequence[int]) -> "ModelShape":
        """Drop a sublayer in the given layers; EffirError if a layer does not have it."""
        there, last = self.having(sublayer), self.layers - 1
        for position, layer in enumerate(layers):
            if not 0 <= layer <= last:
                raise EffirError(f"layer {layer} is not there: the model has {self.layers} layers, 0 to {last}")
            if layer not in there:
                others = ", ".join(map(str, there)) or "no layer, all are dropped"
                raise EffirError(f"layer {layer} has no {sublayer} left: choose among {others}")
            if layer in layers[:position]:
                raise EffirError(f"layer {layer} is named twice: name each layer once")
        no_mlp = set(layers) if sublayer != "attention" else set()
        no_attention = set(layers) if sublayer != "mlp" else set()
        return replace(
            self,
            mlp_widths=tuple(0 if layer in no_mlp else width for layer, width in enumerate(self.mlp_widths)),
            attention_kept=tuple(kept and layer not in no_attention for layer, kept in enumerate(self.attention_kept)),
        )

    def with_mlp_widths(self, widths: Sequence[int]) -> "ModelShape":
        """Keep ``widths[layer]`` channels of each MLP; EffirError if an MLP has fewer."""
        if len(widths) != self.layers:
            raise EffirError(f"{len(widths)} MLP widths are given, but the model has {self.layers} layers: give each")
        for layer, (width, there) in enumerate(zip(widths, self.mlp_widths, strict=True)):
            if width > there:
                raise EffirError(f"layer {layer}'s MLP has {there} channels: keep at most that, not {width}")
        return replace(self, mlp_widths=tuple(int(width) for width in widths))

    def parameters(self, embeddings: bool = True) -> int:
        """Count the parameters without the LM head, as the paper does, with or without the token embeddings."""
        cost = self.cost
        return (
            sum(self.attention_kept) * cost.attention
            + len(self.having("mlp")) * cost.mlp_fixed
            + sum(self.mlp_widths) * cost.channel
            + cost.final_norm
            + (cost.embedding if embeddings else 0)
        )

    def flops_per_token(self, context: int) -> float:
        """Count the floating-point operations of a forward pass per token, in a causal text of ``context`` tokens.

        Twice the multiply-adds: every weight matrix once, and in each kept attention the scores and the weighted sum of
        values, ``2 x heads x head size x (context + 1) / 2`` (token ``i`` sees ``i`` tokens). Norms, biases,
        activations, rotations, softmax, the embedding look-up and sliding windows are not counted.
        """
        cost, attentions = self.cost, sum(self.attention_kept)
        weights = attentions * cost.attention_matmul + sum(self.mlp_widths) * cost.channel_matmul
        return 2.0 * (weights + attentions * 2 * cost.query_width * (context + 1) / 2)


def shape_of(folder: Path) -> ModelShape:
    """Read the shape of a checkpoint folder, uncompressed or cut, from its config.json."""
    config = read_config(folder)
    family = family_of(config, folder)
    uncut, cost = _measure(family, {key: value for key, value in config.items() if key not in _CUT_KEYS})
    layers = len(uncut)
    is_cut = config["model_type"].startswith("effir_")
    widths, kept = (config.get(key) if is_cut else None for key in _CUT_KEYS)
    widths, kept = widths or uncut, kept or [True] * layers
    if not len(widths) == len(kept) == layers or any(not 0 <= w <= full for w, full in zip(widths, uncut, strict=True)):
        wrong = f"MLP widths or attentions that its {layers} layers cannot have"
        raise EffirError(f"{folder / 'config.json'} has {wrong}: copy it from the checkpoint again")
    return ModelShape(family, tuple(widths), tuple(kept), cost, is_cut)


def read_config(folder: Path) -> dict[str, Any]:
    """Read the config.json of a checkpoint; EffirError if the folder is not a Hugging Face checkpoint."""
    if not (folder / "config.json").is_file():
        raise EffirError(f"{folder} is not a Hugging Face checkpoint, it has no config.json: name another folder")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise EffirError(f"{folder / 'config.json'} has no model_type: name a Hugging Face checkpoint")
    return config


def computes_otherwise(config: Mapping[str, Any]) -> str:
    """Say how the model of a config differs from transformers' causal decoder of its type; empty if it does not.

    >>> computes_otherwise({"model_type": "llama", "is_causal": False})
    'has bidirectional attention'
    """
    if "auto_map" in config and not str(config.get("model_type")).startswith("effir_"):
        return "has code of its own (auto_map)"
    bidirectional = config.get("is_causal") is False or config.get("use_bidirectional_attention")
    return "has bidirectional attention" if bidirectional else ""


def family_of(config: dict[str, Any], folder: Path) -> str:
    """Return the family of a config, cut or not; EffirError lists the families that effir can cut."""
    from effir.model.modeling import FAMILIES

    family = str(config["model_type"]).removeprefix("effir_")
    if family == "mistral" and "layer_types" in config and config["model_type"] == family:
        family = "ministral"  # as transformers reads such a config
    if family not in FAMILIES:
        raise EffirError(f"{folder} is a {family} model, which effir cannot cut: choose one of {', '.join(FAMILIES)}")
    return family


_CUT_KEYS = ("mlp_widths", "attention_kept")


def _measure(family: str, config: dict[str, Any]) -> tuple[list[int], LayerCost]:
    """Build the uncut model on the ``meta`` device, without memory, and count its first layer."""
    import torch

    from effir.model.modeling import FAMILIES, norms_of

    model_class = FAMILIES[family]
    with torch.device("meta"):
        model = model_class(model_class.config_class.from_dict({**config, "model_type": f"effir_{family}"}))
    layer, settings = model.layers[0], model.config
    attention_norms, mlp_norms = ([getattr(layer, name) for name in names] for names in norms_of(layer))
    width, projections = settings.intermediate_size, (layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj)
    cost = LayerCost(
        attention=_count(layer.self_attn, *attention_norms),
        attention_matmul=sum(weight.numel() for weight in layer.self_attn.parameters() if weight.ndim == 2),
        mlp_fixed=_count(*mlp_norms) + (projections[2].bias.numel() if projections[2].bias is not None else 0),
        channel=sum(p.weight.numel() // width for p in projections) + sum(p.bias is not None for p in projections[:2]),
        channel_matmul=sum(p.weight.numel() // width for p in projections),
        embedding=_count(model.embed_tokens),
        final_norm=_count(model.norm),
        query_width=layer.self_attn.q_proj.out_features,
    )
    return [width] * len(model.layers), cost


def _count(*modules: Any) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())
