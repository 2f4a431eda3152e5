"""A decoder and its pooling in one module, which computes only the part of the last layer that the pooling reads."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

Pooled = dict[int, tuple[Tensor, Tensor]]
"""The rows and columns of the tokens that are pooled, by thread: several may encode at a time."""


class PooledDecoder(nn.Module):
    """Token ids to unit vectors. No padding mask: no token of a causal decoder attends to the padding on its right."""

    def __init__(self, decoder: Any, pooling: str, *, traced: bool = False) -> None:
        super().__init__()
        self.decoder = decoder
        self.pooling = pooling
        self.traced = traced
        self._last: Pooled = {}
        if pooling == "last":
            _read_one_token(decoder, self._last)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Encode ``input_ids`` (batch, tokens) with ``lengths`` (batch,) real tokens as float32 (batch, hidden)."""
        rows = torch.arange(lengths.shape[0], device=lengths.device)
        self._last[get_ident()] = rows, lengths - 1
        # Without a mask transformers leaves causality to the attention kernel, which tracing cannot follow.
        mask = torch.ones_like(input_ids) if self.traced else None
        states = self.decoder(input_ids=input_ids, attention_mask=mask, use_cache=False).last_hidden_state
        if self.pooling == "last":
            return normalize(states[rows, lengths - 1].float(), dim=-1)
        real = torch.arange(input_ids.shape[1], device=lengths.device) < lengths[:, None]
        return normalize((states.float() * real[:, :, None]).sum(dim=1), dim=-1)


class OneToken(nn.Module):
    """Run a token-wise module on one token of each text; the other tokens, which nothing reads, get its result."""

    def __init__(self, inner: nn.Module, last: Pooled) -> None:
        super().__init__()
        self.inner = inner
        self._last = last

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map (batch, tokens, in) to (batch, tokens, out)."""
        rows, columns = self._last[get_ident()]
        found: Tensor = self.inner(hidden_states[rows, columns])
        return found[:, None].expand(-1, hidden_states.shape[1], -1)


def _read_one_token(decoder: Any, last: Pooled) -> None:
    """Wrap, in place, the modules whose output only the pooled token needs: those after the last keys and values."""
    for layer in reversed(decoder.layers):
        if any(True for _ in layer.mlp.parameters()):
            layer.mlp = OneToken(layer.mlp, last)
        if any(True for _ in layer.self_attn.parameters()):
            layer.self_attn.q_proj = OneToken(layer.self_attn.q_proj, last)
            layer.self_attn.o_proj = OneToken(layer.self_attn.o_proj, last)
            return


def outlier_ratios(model: nn.Module, texts: Sequence[Sequence[int]]) -> dict[str, float]:
    """Find activation outliers, which int8 cannot represent: map the name of each linear layer to its largest input.

    It is divided by the root mean square of the layer's inputs.
    ``model`` is a PooledDecoder, ``texts`` are token ids. Decoders have a few huge inputs: one or two tokens, in the
    ``down_proj`` of some layers.
    """
    largest: dict[str, float] = {}
    squares: dict[str, list[float]] = {}

    def see(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        largest[name] = max(largest.get(name, 0.0), float(inputs[0].abs().max()))
        squares.setdefault(name, []).append(float(inputs[0].square().mean()))

    with ExitStack() as hooks, torch.inference_mode():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                hooks.enter_context(module.register_forward_pre_hook(partial(see, name)))
        for ids in texts:
            model(torch.tensor([list(ids)]), torch.tensor([len(ids)]))
    return {name: largest[name] / (sum(squares[name]) / len(squares[name])) ** 0.5 for name in largest}
