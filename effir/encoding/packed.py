"""A model's matrices in the layout that oneDNN's kernels want, once instead of at each call.

PyTorch sends a float32 product to MKL, which on processors that are not Intel's stays with AVX2: half of what a machine
with AVX-512 can do. oneDNN, which PyTorch carries too and uses for bfloat16, takes the whole width.
"""

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

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        found: Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs.to(self.dtype), self.weight, self.bias, "none", [], None
        )
        return found.to(inputs.dtype)


def pack(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace every linear layer, in place; where PyTorch was built without oneDNN, none."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for name, child in model.named_children():
        if isinstance(child, nn.Linear):
            setattr(model, name, PackedLinear(child, dtype))
        else:
            pack(child, dtype)
