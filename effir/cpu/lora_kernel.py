"""LoRA kernel: linear layers whose weights do not train, with or without adapters, prepacked in both directions.

PyTorch on a CPU casts and lays out every weight at each call under autocast, forward and backward, and an adapter
reads and writes the layer's output three more times. Here the weight and its transpose are prepacked once, and adapters
are added inside matrix products. Without the private operators, peft's own forward runs (docs/decisions/0018).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from effir.cpu.prepacked_linear import can_prepack, prepacked_product, prepacked_weight

Forward = Callable[[Tensor], Tensor]


@contextmanager
def lora_products(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Compute the linear layers of ``model`` whose weights do not train in ``dtype``, prepacked, until the block ends.

    Modules, parameters, hooks and names do not change. Memory holds each weight three times: as it is, and twice in
    ``dtype``. On a GPU, and without oneDNN or its private operators, nothing changes.
    """
    changed: list[nn.Module] = []
    covered: set[nn.Module] = set()
    for module in model.modules() if can_prepack(model, dtype) else ():
        if module not in covered and (forward := _prepacked_forward(module, dtype)):
            module.forward = forward
            changed.append(module)
            covered.update(module.modules())  # the base layer is computed with its adapter
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _prepacked_forward(module: nn.Module, dtype: torch.dtype) -> Forward | None:
    if isinstance(module, LoraLinear):
        return _Adapted(module, dtype) if _is_plain(module) and _does_not_train(module.base_layer) else None
    return _Fixed(module, dtype) if _does_not_train(module) else None


def _is_plain(layer: Any) -> bool:
    """Tell whether one adapter adds ``s B A x`` and nothing else; peft computes the other kinds."""
    (name, *others) = layer.active_adapters
    simple = name not in layer.lora_variant and isinstance(layer.lora_dropout[name], nn.Identity)
    return simple and not (others or layer.merged or layer.disable_adapters or layer.lora_bias[name])


def _does_not_train(module: nn.Module) -> bool:
    if not isinstance(module, nn.Linear):
        return False
    own = (module.weight, module.bias)  # a channel gate may train beside them
    return not any(parameter.requires_grad for parameter in own if parameter is not None)


class _Fixed:
    """``x W^T + b``; not a module, so that the layer that gets it as its ``forward`` has no submodule."""

    def __init__(self, linear: Any, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.weight = prepacked_weight(linear.weight, dtype)
        self.transposed = prepacked_weight(linear.weight.detach().T.contiguous(), dtype)
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Map (..., in) to (..., out) in ``dtype``."""
        outputs: Tensor = _FixedProduct.apply(inputs, self)  # type: ignore[no-untyped-call]
        return outputs


class _FixedProduct(torch.autograd.Function):
    """A product whose backward needs only the layer."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, layer: _Fixed) -> Tensor:
        """Return (..., out)."""
        ctx.layer, ctx.dtype = layer, inputs.dtype
        return prepacked_product(inputs.to(layer.dtype), layer.weight, layer.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the inputs, ``g W``."""
        of_inputs = prepacked_product(gradients[0].to(ctx.layer.dtype), ctx.layer.transposed, None)
        return of_inputs.to(ctx.dtype), None


class _Adapted:
    """``x W^T + b + s (x A^T) B^T``, where A (rank, in) and B (out, rank) train."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        (name,) = layer.active_adapters
        self.base = _Fixed(layer.base_layer, dtype)
        self.down, self.up = layer.lora_A[name].weight, layer.lora_B[name].weight
        self.scale = float(layer.scaling[name])

    def __call__(self, inputs: Tensor) -> Tensor:
        """Map (..., in) to (..., out) in the precision of the base layer."""
        outputs: Tensor = _AdaptedProduct.apply(inputs, self.down, self.up, self)  # type: ignore[no-untyped-call]
        return outputs


class _AdaptedProduct(torch.autograd.Function):
    """A product with its adapter; the backward needs the inputs and their ``rank`` numbers per row."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, down: Tensor, up: Tensor, layer: _Adapted) -> Tensor:
        """Return (..., out)."""
        base, dtype = layer.base, layer.base.dtype
        rows = inputs.to(dtype).flatten(0, -2)
        inner = rows @ down.to(dtype).T
        outputs = prepacked_product(rows, base.weight, base.bias)
        outputs.addmm_(inner, up.to(dtype).T, alpha=layer.scale)
        ctx.save_for_backward(rows, inner, down, up)
        ctx.layer, ctx.shape, ctx.dtype = layer, inputs.shape, inputs.dtype
        return outputs.view(*inputs.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        """Return the gradients of the inputs, if needed, of A and of B."""
        rows, inner, down, up = ctx.saved_tensors
        scale, base, dtype = ctx.layer.scale, ctx.layer.base, ctx.layer.base.dtype
        gradient = gradients[0].to(dtype).flatten(0, -2)
        outer = (gradient @ up.to(dtype)).mul_(scale)
        of_inputs = None
        if ctx.needs_input_grad[0]:
            product = prepacked_product(gradient, base.transposed, None)
            of_inputs = product.addmm_(outer, down.to(dtype)).view(ctx.shape).to(ctx.dtype)
        of_down, of_up = outer.T @ rows, (gradient.T @ inner).mul_(scale)
        return of_inputs, of_down.to(down.dtype), of_up.to(up.dtype), None
