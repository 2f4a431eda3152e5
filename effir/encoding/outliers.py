"""Where a model's activations have outliers that a coarse arithmetic cannot hold."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def outlier_ratios(model: nn.Module, texts: Sequence[Sequence[int]]) -> dict[str, float]:
    """Return, of each linear layer by name, the largest input over the root mean square of all, over ``texts``.

    ``model`` is a PooledDecoder, texts are token ids. Decoders have few such inputs, and huge: a token or two, in the
    ``down_proj`` of some layers.
    """
    largest: dict[str, float] = {}
    squares: dict[str, list[float]] = {}

    def see(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        largest[name] = max(largest.get(name, 0.0), float(inputs[0].abs().max()))
        squares.setdefault(name, []).append(float(inputs[0].square().mean()))

    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    hooks: list[Any] = [module.register_forward_pre_hook(partial(see, name)) for name, module in linears]
    try:
        with torch.inference_mode():
            for ids in texts:
                model(torch.tensor([list(ids)]), torch.tensor([len(ids)]))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: largest[name] / (sum(squares[name]) / len(squares[name])) ** 0.5 for name in largest}
