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
from torch.nn.functional import silu

from effir.cpu.norm_kernel import NormKernel, norms_before_products
from effir.cpu.prepacked_linear import can_prepack, is_silu_gated, prepacked_product, prepacked_weight

Forward = Callable[[Tensor], Tensor]


@contextmanager
def lora_products(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Compute the linear layers of ``model`` whose weights do not train in ``dtype``, prepacked, until the block ends.

    RMSNorms and SiLU-gated MLPs between them keep less for the backward. Modules, parameters, hooks and names do not
    change. Memory holds each weight three times: as it is, and twice in ``dtype``. On a GPU, and without oneDNN or its
    private operators, nothing changes.
    """
    changed: list[nn.Module] = []
    possible = can_prepack(model, dtype)
    for module, forward in _forwards(model, dtype) if possible else ():
        module.forward = forward
        changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _forwards(model: nn.Module, dtype: torch.dtype) -> Iterator[tuple[nn.Module, Forward]]:
    norms, covered = norms_before_products(model), set[nn.Module]()
    for module in model.modules():
        if module in norms:
            yield module, NormKernel(module, dtype)
        elif module not in covered and (forward := _prepacked_forward(module, dtype)):
            yield module, forward
            covered.update(module.modules())  # the base layer is computed with its adapter
            if isinstance(forward, _GatedMLP):
                covered.difference_update(*(each.modules() for each in (forward.gate, forward.up)))


def _prepacked_forward(module: Any, dtype: torch.dtype) -> Forward | None:
    if is_silu_gated(module):
        # A hook before down_proj, such as a channel gate, would see nothing of the fused product.
        down = None if module.down_proj._forward_pre_hooks else _prepacked_forward(module.down_proj, dtype)
        return _GatedMLP(module, down) if isinstance(down, _Adapted) else None
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

    def products(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``x W^T + b + s (x A^T) B^T`` of (rows, in), and ``x A^T``."""
        dtype = self.base.dtype  # cast anew at each call: fused optimisers change values and not their version
        inner = rows @ self.down.to(dtype).T
        outputs = prepacked_product(rows, self.base.weight, self.base.bias)
        return outputs.addmm_(inner, self.up.to(dtype).T, alpha=self.scale), inner

    def gradients(self, rows: Tensor, inner: Tensor, gradient: Tensor, inputs: bool) -> tuple[Tensor | None, ...]:
        """Return the gradients of the rows, if ``inputs``, of A and of B."""
        dtype = self.base.dtype
        gradient = gradient.to(dtype).flatten(0, -2)
        outer = (gradient @ self.up.to(dtype)).mul_(self.scale)
        product = prepacked_product(gradient, self.base.transposed, None) if inputs else None
        of_rows = None if product is None else product.addmm_(outer, self.down.to(dtype))
        of_down, of_up = outer.T @ rows, (gradient.T @ inner).mul_(self.scale)
        return of_rows, of_down.to(self.down.dtype), of_up.to(self.up.dtype)


class _AdaptedProduct(torch.autograd.Function):
    """A product with its adapter; the backward needs the inputs and their ``rank`` numbers per row."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, down: Tensor, up: Tensor, layer: _Adapted) -> Tensor:
        """Return (..., out)."""
        rows = inputs.to(layer.base.dtype).flatten(0, -2)
        outputs, inner = layer.products(rows)
        ctx.save_for_backward(rows, inner)
        ctx.layer, ctx.shape, ctx.dtype = layer, inputs.shape, inputs.dtype
        return outputs.view(*inputs.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the inputs, if needed, of A and of B."""
        of_rows, *others = ctx.layer.gradients(*ctx.saved_tensors, gradients[0], ctx.needs_input_grad[0])
        of_inputs = None if of_rows is None else of_rows.view(ctx.shape).to(ctx.dtype)
        return of_inputs, *others, None


class _GatedMLP:
    """``down(silu(gate(x)) * up(x))``, where ``down`` has an adapter."""

    def __init__(self, mlp: Any, down: _Adapted) -> None:
        self.gate, self.up, self.down = mlp.gate_proj, mlp.up_proj, down

    def __call__(self, inputs: Tensor) -> Tensor:
        """Map (..., hidden) to (..., hidden)."""
        adapters = self.down.down, self.down.up
        outputs: Tensor = _GatedProduct.apply(self.gate(inputs), self.up(inputs), *adapters, self.down)  # type: ignore[no-untyped-call]
        return outputs


class _GatedProduct(torch.autograd.Function):
    """A product of ``silu(gate) * up``, which the backward computes again."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, of_down: Tensor, of_up: Tensor, layer: _Adapted) -> Tensor:
        """Return (..., out)."""
        rows = silu(gate).mul_(up).to(layer.base.dtype).flatten(0, -2)
        outputs, inner = layer.products(rows)
        ctx.save_for_backward(gate, up, inner)
        ctx.layer = layer
        return outputs.view(*gate.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of gate and up, and of the adapter's A and B."""
        gate, up, inner = ctx.saved_tensors
        opened = silu(gate)
        rows = (opened * up).to(ctx.layer.base.dtype).flatten(0, -2)
        of_rows, *others = ctx.layer.gradients(rows, inner, gradients[0], inputs=True)
        of_gated = of_rows.view(gate.shape).to(gate.dtype)
        of_gate = torch.ops.aten.silu_backward(of_gated * up, gate)
        return of_gate, opened.mul_(of_gated), *others, None
