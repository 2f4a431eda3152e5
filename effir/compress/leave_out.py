"""Measure and choose in turn: drop the sublayer whose loss changes the final hidden states least, and look again.

Scores taken once, of the whole model, put neighbours first: each of them is redundant while the others are there. What
is left out here counts its effect through everything behind it, and the next choice is made in the model that is left.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from effir.compress.drop_order import Drop, parameters_saved
from effir.errors import EffirError
from effir.model.modeling import cut_layer
from effir.model.shape import ModelShape, Sublayer


@dataclass
class _Stream:
    """One batch on its way: the input of each layer and the last one's output; what else each layer is called with."""

    states: list[Tensor]
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
    real: Tensor
    wanted: Tensor


def greedy_order(
    model: Any, shape: ModelShape, batches: Iterable[Mapping[str, Tensor]], sublayers: Sequence[Sublayer], count: int
) -> list[Drop]:
    """Order the first ``count`` sublayers to drop, of the kinds given; the model stays as it was.

    With several kinds the harm is weighed by the parameters saved: the least rise of the change a parameter goes first.
    A batch holds ``input_ids`` and ``attention_mask``, both (batch, tokens). Only what follows a candidate is computed
    again for it. EffirError where there are fewer sublayers than ``count``.
    """
    candidates = [(kind, layer) for kind in sublayers for layer in shape.having(kind)]
    if count > len(candidates):
        raise EffirError(f"{count} sublayers are to be dropped, but the model has {len(candidates)}: drop fewer")
    decoder, order, change = model.base_model, [], 0.0
    with torch.inference_mode(), _left_as_it_was(decoder):
        streams = [_trace(decoder, batch) for batch in batches]
        for _ in tqdm(range(count), desc="drop", unit=" sublayers", disable=None):
            found = {each: _change_without(decoder, streams, *each) for each in candidates}
            rises = {each: (found[each] - change) / parameters_saved(shape, each[0]) for each in candidates}
            kind, layer = min(candidates, key=lambda each: (rises[each], each[1]))
            change = found[kind, layer]
            order.append(Drop(kind, layer, change))
            candidates = [each for each in candidates if not _overlap(each, (kind, layer))]
            _leave_out(decoder, kind, layer)
            for stream in streams:
                stream.states[layer:] = [stream.states[layer], *_go_on(decoder, stream, layer)]
    return order


def leave_one_out(
    model: Any, shape: ModelShape, batches: Iterable[Mapping[str, Tensor]], sublayers: Sequence[Sublayer]
) -> dict[Sublayer, list[float]]:
    """Score each sublayer once, by the change of the final hidden states when it alone is left out, by layer.

    One that is not there scores 0. The model stays as it was.
    """
    scores: dict[Sublayer, list[float]] = {kind: [0.0] * shape.layers for kind in sublayers}
    decoder, candidates = model.base_model, [(kind, layer) for kind in sublayers for layer in shape.having(kind)]
    with torch.inference_mode():
        streams = [_trace(decoder, batch) for batch in batches]
        for kind, layer in tqdm(candidates, desc="leave out", unit=" sublayers", disable=None):
            scores[kind][layer] = _change_without(decoder, streams, kind, layer)
    return scores


def _overlap(one: tuple[str, int], other: tuple[str, int]) -> bool:
    return one[1] == other[1] and (one[0] == other[0] or "block" in (one[0], other[0]))


def _trace(decoder: Any, batch: Mapping[str, Tensor]) -> _Stream:
    """Run the model once and keep what passes by."""
    ids, mask = (batch[key].to(decoder.device) for key in ("input_ids", "attention_mask"))
    states: list[Tensor] = []
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def see(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])
        calls.append((args[1:], {key: value for key, value in kwargs.items() if key != "hidden_states"}))

    def end(module: Any, args: tuple[Any, ...]) -> None:
        states.append(args[0])

    hooks = [layer.register_forward_pre_hook(see, with_kwargs=True) for layer in decoder.layers]
    hooks.append(decoder.norm.register_forward_pre_hook(end))
    try:
        decoder(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    real = mask.bool()
    return _Stream(states, calls, real, _directions(decoder, states[-1], real))


def _directions(decoder: Any, last: Tensor, real: Tensor) -> Tensor:
    return normalize(decoder.norm(last)[real].float(), dim=-1)


def _go_on(decoder: Any, stream: _Stream, start: int) -> Iterator[Tensor]:
    """Yield the output of each layer from ``start`` on."""
    states = stream.states[start]
    for layer, (args, kwargs) in zip(decoder.layers[start:], stream.calls[start:], strict=True):
        found = layer(states, *args, **kwargs)
        states = found[0] if isinstance(found, tuple) else found
        yield states


def _change_without(decoder: Any, streams: Sequence[_Stream], kind: Sublayer, layer: int) -> float:
    total, tokens = 0.0, 0
    with _left_as_it_was(decoder, [layer]):
        _leave_out(decoder, kind, layer)
        for stream in streams:
            *_, last = _go_on(decoder, stream, layer)
            # 1 - cos of two unit vectors is half their squared distance
            distances = (_directions(decoder, last, stream.real) - stream.wanted).square().sum(dim=-1) / 2
            total, tokens = total + float(distances.double().sum()), tokens + len(distances)
    return total / max(tokens, 1)


def _leave_out(decoder: Any, kind: Sublayer, layer: int) -> None:
    module, config = decoder.layers[layer], decoder.config
    cut_layer(module, config, config.intermediate_size if kind == "attention" else 0, kind == "mlp")


@contextmanager
def _left_as_it_was(decoder: Any, layers: Sequence[int] | None = None) -> Iterator[None]:
    """Give the layers back their sublayers and norms, whatever was left out inside the block."""
    chosen = [decoder.layers[i] for i in (range(len(decoder.layers)) if layers is None else layers)]
    before = [dict(layer._modules) for layer in chosen]
    try:
        yield
    finally:
        for layer, modules in zip(chosen, before, strict=True):
            layer._modules.clear()
            layer._modules.update(modules)
