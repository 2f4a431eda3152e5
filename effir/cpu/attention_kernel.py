"""Attention for training on a CPU: for the backward it keeps queries, keys, values and probabilities, each once.

PyTorch's fused attention has a slow backward on CPUs, and transformers' eager one repeats keys and values for each
group of heads and keeps the probabilities twice (docs/decisions/0018).
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_utils import AttentionInterface

NAME = "effir_training"
"""The name for ``set_attn_implementation``."""


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Map ``query`` (batch, heads, tokens, head), ``key`` and ``value`` (batch, groups, tokens, head).

    ``attention_mask`` (batch, 1, tokens, tokens) is added to the scores. Returns (batch, tokens, heads, head) in the
    precision of ``value``. There is no dropout.
    """
    outputs: Tensor = _Attention.apply(query, key, value, attention_mask, scaling)  # type: ignore[no-untyped-call]
    return outputs, None


class _Attention(torch.autograd.Function):
    """The heads of a group are rows of one product, so keys and values are not repeated."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
        """Return (batch, tokens, heads, head)."""
        batch, heads, tokens, _ = query.shape
        groups, dtype = batch * key.shape[1], value.dtype
        q, k, v = (each.to(dtype).reshape(groups, -1, each.shape[-1]) for each in (query, key, value))
        scores = (q @ k.mT).float().mul_(scaling).view(batch, heads, tokens, -1).add_(mask)
        weights = torch.softmax(scores, dim=-1).to(dtype).view(groups, -1, tokens)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scaling, ctx.like = scaling, [(each.shape, each.dtype) for each in (query, key, value)]
        return (weights @ v).view(batch, heads, tokens, -1).transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of queries, keys and values."""
        q, k, v, weights = ctx.saved_tensors
        gradient = gradients[0].to(v.dtype).transpose(1, 2).reshape(q.shape[0], -1, v.shape[-1])
        of_weights, known = (gradient @ v.mT).float(), weights.float()
        of_scores = torch.ops.aten._softmax_backward_data(of_weights, known, -1, torch.float32)
        of_scores = of_scores.mul_(ctx.scaling).to(v.dtype)
        found = (of_scores @ k, of_scores.mT @ q, weights.mT @ gradient)
        return *(each.view(shape).to(dtype) for each, (shape, dtype) in zip(found, ctx.like, strict=True)), None, None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, eager_mask)
