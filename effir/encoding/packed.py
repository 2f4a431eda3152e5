"""A model's matrices in the layout that oneDNN's kernels want, once instead of at each call.

PyTorch sends a float32 product to MKL, which on processors that are not Intel's stays with AVX2: half of what a machine
with AVX-512 can do. oneDNN, which PyTorch carries too and uses for bfloat16, takes the whole width, and applies a gate
while a product is still in its registers. The operators are those that PyTorch's own compiler emits.
"""

from typing import Any

import torch
from torch import Tensor, nn

ROWS = 1024  # oneDNN chooses the layout for about so many rows; another number of them works too


class PackedLinear(nn.Module):
    """A linear layer for inference on CPUs, in the precision it was packed in; takes and returns any."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype), ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def forward(self, inputs: Tensor, activation: str = "none") -> Tensor:
        """Map (..., in) to (..., out); ``activation`` is ``none`` or ``swish``."""
        found: Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs.to(self.dtype), self.weight, self.bias, activation, [], None
        )
        return found.to(inputs.dtype)

    def gated(self, inputs: Tensor, gate: Tensor) -> Tensor:
        """Map (..., in) to (..., out) and multiply by ``gate`` (..., out), which is in the packed precision."""
        found: Tensor = torch.ops.mkldnn._linear_pointwise.binary(inputs, gate, self.weight, self.bias, "mul")
        return found


class PackedMLP(nn.Module):
    """``down(silu(gate(x)) * up(x))`` as three products and nothing else."""

    def __init__(self, mlp: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.gate, self.up, self.down = (PackedLinear(p, dtype) for p in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map (..., hidden) to (..., hidden)."""
        inputs = hidden_states.to(self.dtype)
        found: Tensor = self.down(self.up.gated(inputs, self.gate(inputs, "swish")))
        return found.to(hidden_states.dtype)


def pack(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace every linear layer, and every MLP that is gated by SiLU, in place.

    Where PyTorch was built without oneDNN, none.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
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
