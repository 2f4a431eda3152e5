"""Kernel of RMSNorm for training on a CPU: for the backward it keeps its input alone, in the products' precision.

The models' own norms keep the input, the normalised states, and a copy in that precision for each product that reads
them. Here a norm returns it, so that its readers share one copy (docs/decisions/0018).
"""

from typing import Any

import torch
from torch import Tensor, nn


def norms_before_products(model: nn.Module) -> set[nn.Module]:
    """Return the RMSNorms of ``model`` that linear layers alone read, those before attentions and MLPs.

    Gemma's are computed otherwise, and have no ``variance_epsilon``.
    """
    names = "input_layernorm", "post_attention_layernorm"
    found = (getattr(module, name, None) for module in model.modules() for name in names)
    return {norm for norm in found if isinstance(norm, nn.Module) and _is_kept(norm)}


def _is_kept(norm: Any) -> bool:
    return hasattr(norm, "variance_epsilon") and not norm.weight.requires_grad


class NormKernel:
    """``w x / rms(x)`` in ``dtype``; not a module, so that the norm whose ``forward`` it becomes has no submodule."""

    def __init__(self, norm: Any, dtype: torch.dtype) -> None:
        self.weight, self.epsilon, self.dtype = norm.weight.detach().float(), norm.variance_epsilon, dtype

    def __call__(self, inputs: Tensor) -> Tensor:
        """Map (..., hidden) to (..., hidden) in ``dtype``."""
        outputs: Tensor = _Norm.apply(inputs, self)  # type: ignore[no-untyped-call]
        return outputs


class _Norm(torch.autograd.Function):
    """A norm whose weight does not train."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, norm: NormKernel) -> Tensor:
        """Return (..., hidden)."""
        rows = inputs.float()
        scale = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).square_()
        scale = scale.div_(rows.shape[-1]).add_(norm.epsilon).rsqrt_()
        ctx.save_for_backward(inputs.to(norm.dtype), scale)
        ctx.norm, ctx.dtype = norm, inputs.dtype
        outputs = torch.empty_like(rows, dtype=norm.dtype)
        return torch.mul(rows * scale, norm.weight, out=outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the inputs: ``s g w - s^3 mean(g w x) x``, where ``s = 1 / rms(x)``."""
        inputs, scale = ctx.saved_tensors
        rows, weighted = inputs.float(), gradients[0] * ctx.norm.weight
        along = torch.linalg.vecdot(weighted, rows)[..., None].mul_(scale.pow(3)).div_(rows.shape[-1])
        return weighted.mul_(scale).addcmul_(along, rows, value=-1).to(ctx.dtype), None
