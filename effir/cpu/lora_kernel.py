"""Linear layers whose weights do not train, with or without LoRA, both directions at the speed of inference.

Autograd already leaves out the gradient of a frozen weight. What is left costs on a CPU: under autocast every weight is
cast and laid out anew at each call, forward and backward, and an adapter passes over the layer's whole output three
more times. Here the weight and its transpose are packed once, and adapters are added within matrix products.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from effir.cpu.prepacked_linear import can_pack, packed_product, packed_weight

Forward = Callable[[Tensor], Tensor]


@contextmanager
def lora_products(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Compute every linear layer of ``model`` whose weight does not train in ``dtype``, packed, until the block ends.

    Modules, parameters, hooks and names stay as they are. Each packed weight is there three times: as it was, and in
    ``dtype`` twice. On a GPU, and where PyTorch has no oneDNN, nothing changes.
    """
    changed: list[nn.Module] = []
    covered: set[nn.Module] = set()
    for module in model.modules() if can_pack(model, dtype) else ():
        if module not in covered and (forward := _packed_forward(module, dtype)):
            module.forward = forward
            changed.append(module)
            covered.update(module.modules())  # an adapted layer's own is computed with it
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _packed_forward(module: nn.Module, dtype: torch.dtype) -> Forward | None:
    if isinstance(module, LoraLinear):
        return _Adapted(module, dtype) if _is_plain(module) and _is_frozen(module.base_layer) else None
    return _Frozen(module, dtype) if _is_frozen(module) else None


def _is_plain(layer: Any) -> bool:
    """Tell whether one adapter adds ``s B A x`` and nothing else; other kinds are left to peft."""
    (name, *others) = layer.active_adapters
    simple = name not in layer.lora_variant and isinstance(layer.lora_dropout[name], nn.Identity)
    return simple and not (others or layer.merged or layer.disable_adapters or layer.lora_bias[name])


def _is_frozen(module: nn.Module) -> bool:
    own = [] if not isinstance(module, nn.Linear) else [module.weight, module.bias]
    return bool(own) and not any(each.requires_grad for each in own if each is not None)


class _Frozen:
    """``x W^T + b``; a plain callable, so that the layer whose ``forward`` it becomes gets no submodule."""

    def __init__(self, linear: Any, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.weight = packed_weight(linear.weight, dtype)
        self.transposed = packed_weight(linear.weight.detach().T.contiguous(), dtype)
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Map (..., in) to (..., out) in the packed precision."""
        found: Tensor = _Product.apply(inputs, self)  # type: ignore[no-untyped-call]
        return found


class _Product(torch.autograd.Function):
    """A product of which backward needs nothing but its layer."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, layer: _Frozen) -> Tensor:
        """Return (..., out)."""
        ctx.layer, ctx.dtype = layer, inputs.dtype
        return packed_product(inputs.to(layer.dtype), layer.weight, layer.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the inputs, ``g W``."""
        found = packed_product(gradients[0].to(ctx.layer.dtype), ctx.layer.transposed, None)
        return found.to(ctx.dtype), None


class _Adapted:
    """``x W^T + b + s (x A^T) B^T``, of which A (rank, in) and B (out, rank) train."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        (name,) = layer.active_adapters
        self.frozen = _Frozen(layer.base_layer, dtype)
        self.down, self.up = layer.lora_A[name].weight, layer.lora_B[name].weight
        self.scale = float(layer.scaling[name])

    def __call__(self, inputs: Tensor) -> Tensor:
        """Map (..., in) to (..., out) in the packed precision."""
        found: Tensor = _AdaptedProduct.apply(inputs, self.down, self.up, self)  # type: ignore[no-untyped-call]
        return found


class _AdaptedProduct(torch.autograd.Function):
    """A product with its adapter; backward needs the inputs, and their ``rank`` numbers a row."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, down: Tensor, up: Tensor, layer: _Adapted) -> Tensor:
        """Return (..., out)."""
        frozen, dtype = layer.frozen, layer.frozen.dtype
        rows = inputs.to(dtype).flatten(0, -2)
        inner = rows @ down.to(dtype).T
        found = packed_product(rows, frozen.weight, frozen.bias)
        found.addmm_(inner, up.to(dtype).T, alpha=layer.scale)
        ctx.save_for_backward(rows, inner, down, up)
        ctx.layer, ctx.shape, ctx.dtype = layer, inputs.shape, inputs.dtype
        return found.view(*inputs.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        """Return the gradients of the inputs, where they are wanted, of A and of B."""
        rows, inner, down, up = ctx.saved_tensors
        scale, frozen, dtype = ctx.layer.scale, ctx.layer.frozen, ctx.layer.frozen.dtype
        gradient = gradients[0].to(dtype).flatten(0, -2)
        outer = (gradient @ up.to(dtype)).mul_(scale)
        of_inputs = None
        if ctx.needs_input_grad[0]:
            found = packed_product(gradient, frozen.transposed, None)
            of_inputs = found.addmm_(outer, down.to(dtype)).view(ctx.shape).to(ctx.dtype)
        of_down, of_up = outer.T @ rows, (gradient.T @ inner).mul_(scale)
        return of_inputs, of_down.to(down.dtype), of_up.to(up.dtype), None
