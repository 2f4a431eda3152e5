"""Linear layers prepacked for oneDNN: weights are laid out once instead of at each call, for inference on CPUs.

PyTorch sends a float32 product to MKL, which uses AVX2 on processors that are not Intel's, half of what AVX-512 can do.
oneDNN, which is part of PyTorch, uses the full width and applies an activation inside the product. Its operators are
private: PyTorch's compiler emits them. Without them, models keep their plain layers (docs/decisions/0018).
"""

from typing import Any

import torch
from torch import Tensor, nn

ROWS = 1024  # oneDNN chooses the layout for this number of rows; products with other numbers work too
OPERATORS = ("_is_mkldnn_bf16_supported", "_linear_pointwise", "_linear_pointwise.binary", "_reorder_linear_weight")
"""The private operators of ``torch.ops.mkldnn`` that are used here."""


def missing_operators() -> list[str]:
    """List the private operators that the installed PyTorch does not have."""
    found = set()
    for name in {operator.partition(".")[0] for operator in OPERATORS}:
        if hasattr(torch.ops.mkldnn, name):
            found |= {name, *(f"{name}.{overload}" for overload in getattr(torch.ops.mkldnn, name).overloads())}
    return [operator for operator in OPERATORS if operator not in found]


def can_prepack(model: nn.Module, dtype: torch.dtype) -> bool:
    """Tell whether oneDNN can compute ``model`` in ``dtype``: the model, the processor and PyTorch decide."""
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    if not on_cpu or not torch.backends.mkldnn.is_available() or missing_operators():  # type: ignore[no-untyped-call]
        return False
    return dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def prepacked_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Lay out a weight (out, in) for :func:`prepacked_product`, the only function that can read the result."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype), ROWS)
    return packed


def prepacked_product(inputs: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """Map (..., in), in the precision of the weight, to (..., out); ``activation`` is ``none`` or ``swish``."""
    outputs: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, activation, [], None)
    return outputs


class PrepackedLinear(nn.Module):
    """A linear layer for inference that computes in ``dtype`` and returns the type of its inputs."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.weight = prepacked_weight(linear.weight, dtype)
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return prepacked_product(inputs.to(self.dtype), self.weight, self.bias).to(inputs.dtype)


class PrepackedMLP(nn.Module):
    """``down(silu(gate(x)) * up(x))`` in three products."""

    def __init__(self, mlp: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.gate, self.up, self.down = (PrepackedLinear(p, dtype) for p in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map (..., hidden) to (..., hidden)."""
        inputs = hidden_states.to(self.dtype)
        gate = prepacked_product(inputs, self.gate.weight, self.gate.bias, "swish")
        gated = torch.ops.mkldnn._linear_pointwise.binary(inputs, gate, self.up.weight, self.up.bias, "mul")
        outputs: Tensor = self.down(gated)
        return outputs.to(hidden_states.dtype)


def prepack(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace every linear layer and every SiLU-gated MLP in place, if :func:`can_prepack`."""
    if not can_prepack(model, dtype):
        return
    for name, child in model.named_children():
        if isinstance(child, nn.Linear):
            setattr(model, name, PrepackedLinear(child, dtype))
        elif _is_silu_mlp(child):
            setattr(model, name, PrepackedMLP(child, dtype))
        else:
            prepack(child, dtype)


def _is_silu_mlp(module: nn.Module) -> bool:
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    silu = type(getattr(module, "act_fn", None)).__name__ in ("SiLU", "SiLUActivation")
    return silu and all(isinstance(part, nn.Linear) for part in parts)
