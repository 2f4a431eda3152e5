"""A decoder and its pooling as one function, and only as much of its last layer as the pooling reads."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


class PooledDecoder(nn.Module):
    """Token ids to unit vectors. No padding mask: texts are padded on the right, where a causal token never looks."""

    def __init__(self, decoder: Any, pooling: str, *, traced: bool = False) -> None:
        super().__init__()
        self.decoder = decoder
        self.pooling = pooling
        self.traced = traced
        self._last: list[Tensor] = []
        if pooling == "last":
            _read_one_token(decoder, self._last)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Pool ``input_ids`` (batch, tokens), of which ``lengths`` (batch,) are real, to float32 (batch, hidden)."""
        rows = torch.arange(lengths.shape[0], device=lengths.device)
        self._last[:] = [rows, lengths - 1]
        # Without a mask transformers leaves causality to the attention kernel, in a way that tracing cannot follow.
        mask = torch.ones_like(input_ids) if self.traced else None
        states = self.decoder(input_ids=input_ids, attention_mask=mask, use_cache=False).last_hidden_state
        if self.pooling == "last":
            return normalize(states[rows, lengths - 1].float(), dim=-1)
        real = torch.arange(input_ids.shape[1], device=lengths.device) < lengths[:, None]
        return normalize((states.float() * real[:, :, None]).sum(dim=1), dim=-1)


class OneToken(nn.Module):
    """A module of single tokens, run on one token of each text; the others, which nobody reads, get its result."""

    def __init__(self, inner: nn.Module, last: list[Tensor]) -> None:
        super().__init__()
        self.inner = inner
        self._last = last

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map (batch, tokens, in) to (batch, tokens, out)."""
        rows, columns = self._last
        found: Tensor = self.inner(hidden_states[rows, columns])
        return found[:, None].expand(-1, hidden_states.shape[1], -1)


def _read_one_token(decoder: Any, last: list[Tensor]) -> None:
    """Wrap, in place, all that no other token reads: what follows the last attention's keys and values."""
    for layer in reversed(decoder.layers):
        if any(True for _ in layer.mlp.parameters()):
            layer.mlp = OneToken(layer.mlp, last)
        if any(True for _ in layer.self_attn.parameters()):
            layer.self_attn.q_proj = OneToken(layer.self_attn.q_proj, last)
            layer.self_attn.o_proj = OneToken(layer.self_attn.o_proj, last)
            return
