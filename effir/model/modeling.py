"""The cut model as a Hugging Face architecture (EffiR, arXiv 2512.20612).

This file travels inside every checkpoint, so it imports torch and transformers and nothing else. Each class is the
installed model of its family, with MLPs narrowed to ``config.mlp_widths`` (0 = dropped) and without the attentions
that ``config.attention_kept`` excludes. A dropped sublayer has no weights, and its norms are dropped too.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2Model,
    Gemma3TextConfig,
    Gemma3TextModel,
    GemmaConfig,
    GemmaModel,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
)


@dataclass(kw_only=True)
class CutConfig:
    """The keys that a cut adds to the config of its family. Without them nothing is cut."""

    mlp_widths: list[int] | None = None
    attention_kept: list[bool] | None = None
    use_cache: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[misc]
        layers, width = self.num_hidden_layers, self.intermediate_size  # type: ignore[attr-defined]
        self.mlp_widths = [width] * layers if self.mlp_widths is None else list(self.mlp_widths)
        self.attention_kept = [True] * layers if self.attention_kept is None else list(self.attention_kept)
        for key in ("mlp_widths", "attention_kept"):
            if len(getattr(self, key)) != layers:
                named = len(getattr(self, key))
                raise ValueError(f"config.json: {key} has {named} layers, but num_hidden_layers is {layers}")


class DroppedMLP(nn.Module):
    """Adds nothing to the residual stream."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return a zero of shape ()."""
        return hidden_states.new_zeros(())


class DroppedAttention(nn.Module):
    """Adds nothing to the residual stream; there are no attention weights to return."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        """Return a zero of shape (), and None; ValueError for a key-value cache, whose length would be wrong."""
        if kwargs.get("past_key_values") is not None:
            raise ValueError("a model with dropped attentions is an encoder: call it with use_cache=False")
        return hidden_states.new_zeros(()), None


def norms_of(layer: nn.Module) -> tuple[list[str], list[str]]:
    """Return the names of a decoder layer's attention norms, and of its MLP norms."""
    attention, mlp = ["input_layernorm", "post_attention_layernorm"], ["pre_feedforward_layernorm"]
    if hasattr(layer, *mlp):  # sandwich norms: Gemma 2 and 3
        return attention, [*mlp, "post_feedforward_layernorm"]
    return attention[:1], attention[1:]


def cut_layer(layer: nn.Module, config: Any, width: int, attention_kept: bool) -> None:
    """Narrow or drop a decoder layer's sublayers in place."""
    attention_norms, mlp_norms = norms_of(layer)
    dropped = [] if attention_kept else attention_norms
    if not attention_kept:
        layer.self_attn = DroppedAttention()
    if width == 0:
        layer.mlp, dropped = DroppedMLP(), dropped + mlp_norms
    elif width != config.intermediate_size:
        narrow = copy.copy(config)
        narrow.intermediate_size = width
        layer.mlp = type(layer.mlp)(narrow)  # the family's own MLP keeps its biases and its activation
    for name in dropped:
        setattr(layer, name, nn.Identity())


class CutModel:
    """Mixin before a family's model: builds the uncut model (on ``meta`` while loading), then cuts it."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        for layer, width, kept in zip(self.layers, config.mlp_widths, config.attention_kept, strict=True):  # type: ignore[attr-defined]
            cut_layer(layer, config, width, kept)
        self.post_init()  # type: ignore[attr-defined]

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True  # transformers looks for attention code in this file, but it is the family's own


def cut_family(family_config: Any, family_model: Any) -> Any:
    """Make the cut config and model of a family, named like ``EffirLlamaConfig`` and ``EffirLlamaModel``."""
    model_type = f"effir_{family_config.model_type}"
    config: Any = type(f"Effir{family_config.__name__}", (CutConfig, family_config), {"model_type": model_type})
    model: Any = type(f"Effir{family_model.__name__}", (CutModel, family_model), {"config_class": config})
    for each, auto_class in ((config, "AutoConfig"), (model, "AutoModel")):
        each.register_for_auto_class(auto_class)  # save_pretrained takes this file along
        globals()[each.__name__] = each  # where auto_map finds it
    return model


FAMILIES: dict[str, Any] = {
    "llama": cut_family(LlamaConfig, LlamaModel),
    "mistral": cut_family(MistralConfig, MistralModel),
    "qwen2": cut_family(Qwen2Config, Qwen2Model),
    "qwen3": cut_family(Qwen3Config, Qwen3Model),
    "gemma": cut_family(GemmaConfig, GemmaModel),
    "gemma2": cut_family(Gemma2Config, Gemma2Model),
    "gemma3_text": cut_family(Gemma3TextConfig, Gemma3TextModel),
}
