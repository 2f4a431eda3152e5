"""A model's matrices in the layout that oneDNN's kernels want, once instead of at each call.

PyTorch sends a float32 product to MKL, which on processors that are not Intel's stays with AVX2: half of what a machine
with AVX-512 can do. oneDNN, which PyTorch carries too and uses for bfloat16, takes the whole width, and applies a gate
while a product is still in its registers. The operators are those that PyTorch's own compiler emits.
"""

from typing import Any

import torch
from torch import Tensor, nn

ROWS = 1024  # oneDNN chooses the layout for about so many rows; another number of them works too


def can_pack(model: nn.Module, dtype: torch.dtype) -> bool:
    """Tell whether oneDNN computes for ``model`` in ``dtype``: on a CPU that can, where PyTorch was built with it."""
    here = all(parameter.device.type == "cpu" for parameter in model.parameters())
    if not here or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def packed_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Lay out a weight (out, in) for :func:`packed_product`; nothing else can read the result."""
    found: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype), ROWS)
    return found


def packed_product(inputs: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """Map (..., in), in the weight's precision, to (..., out); ``activation`` is ``none`` or ``swish``."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, activation, [], None)
    return found


class PackedLinear(nn.Module):
    """A linear layer for inference on CPUs, in the precision it was packed in; takes and returns any."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.weight = packed_weight(linear.weight, dtype)
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return packed_product(inputs.to(self.dtype), self.weight, self.bias).to(inputs.dtype)


class PackedMLP(nn.Module):
    """``down(silu(gate(x)) * up(x))`` as three products and nothing else."""

    def __init__(self, mlp: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.gate, self.up, self.down = (PackedLinear(p, dtype) for p in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map (..., hidden) to (..., hidden)."""
        inputs = hidden_states.to(self.dtype)
        gate = packed_product(inputs, self.gate.weight, self.gate.bias, "swish")
        gated = torch.ops.mkldnn._linear_pointwise.binary(inputs, gate, self.up.weight, self.up.bias, "mul")
        found: Tensor = self.down(gated)
        return found.to(hidden_states.dtype)


def pack(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace every linear layer, and every MLP that is gated by SiLU, in place; nothing where oneDNN is not there."""
    if not can_pack(model, dtype):
        return
    for name, child in model.named_children():
        if isinstance(child, nn.Linear):
            setattr(model, name, PackedLinear(child, dtype))
        elif _is_silu_mlp(child):
            setattr(model, name, PackedMLP(child, dtype))
        else:
            pack(child, dtype)


def _is_silu_mlp(module: nn.Module) -> bool:
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    silu = type(getattr(module, "act_fn", None)).__name__ in ("SiLU", "SiLUActivation")
    return silu and all(isinstance(part, nn.Linear) for part in parts)
