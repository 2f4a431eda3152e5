"""Measure: the change of the final hidden states without a sublayer, once for each or again after each drop.

Scores taken once rank neighbouring layers together, because each is redundant while the others are present. The
greedy order measures the next candidates in the model without the sublayers dropped so far.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from effir.compress.drop_order import (
    KINDS,
    Candidate,
    Drop,
    Droppable,
    Kinds,
    likeliest,
    order_by_score,
    parameters_saved,
    without_dropped,
)
from effir.compress.redundancy import Importance
from effir.cpu.thread_parallel import map_on_cores
from effir.errors import EffirError
from effir.model.modeling import cut_layer
from effir.model.shape import ModelShape, Sublayer

Batches = Iterable[Mapping[str, Tensor]]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Criterion = Literal["cosine", "leave_one_out", "greedy"]


@dataclass
class _Trace:
    """A batch in the decoder: the input of each layer and the last output, and the other arguments of each layer.

    ``reference`` holds the directions of the final hidden states of the unchanged model, (real tokens, hidden).
    """

    states: list[Tensor]
    arguments: list[Arguments]
    mask: Tensor
    reference: Tensor


def order_by_criterion(
    model: Any,
    shape: ModelShape,
    importance: Importance,
    batches: Callable[[], Batches],
    criterion: Criterion,
    droppable: Droppable,
    share: float,
) -> list[Drop]:
    """Order the sublayers of a model by ``analyze.criterion``, the first one to drop in front.

    - ``cosine`` orders by ``importance`` (EffiR, sec. 3.1).
    - ``leave_one_out`` scores each sublayer by the change of the final hidden states without it, on ``batches``.
    - ``greedy`` repeats that after each drop, and orders only the first ``share`` of the sublayers.
    """
    kinds = KINDS[droppable]
    if criterion == "greedy":
        count = round(share * sum(len(shape.having(kind)) for kind in kinds))
        return greedy_order(model, shape, batches(), kinds, count)
    scores = importance.scores() if criterion == "cosine" else leave_one_out(model, shape, batches(), kinds)
    return order_by_score(scores, shape, kinds)


def leave_one_out(model: Any, shape: ModelShape, batches: Batches, kinds: Kinds) -> dict[Sublayer, list[float]]:
    """Score each sublayer by the change of the final hidden states without it alone, by layer; 0 if it is missing.

    The model does not change. A batch holds ``input_ids`` and ``attention_mask``, both (batch, tokens).
    """
    scores: dict[Sublayer, list[float]] = {kind: [0.0] * shape.layers for kind in kinds}
    candidates = [(kind, layer) for kind in kinds for layer in shape.having(kind)]
    changes = _Remaining(model.base_model, batches).changes(candidates)
    bar = tqdm(changes, desc="leave out", total=len(candidates), unit=" sublayers", disable=None)
    for (kind, layer), change in zip(candidates, bar, strict=True):
        scores[kind][layer] = change
    return scores


def greedy_order(model: Any, shape: ModelShape, batches: Batches, kinds: Kinds, count: int) -> list[Drop]:
    """Order the first ``count`` sublayers to drop, of the given kinds; the model does not change.

    The least rise of the change per parameter saved comes first. After a drop the :func:`likeliest` are measured again.
    A batch holds ``input_ids`` and ``attention_mask``, both (batch, tokens). EffirError if ``count`` is too high.
    """
    candidates = [(kind, layer) for kind in kinds for layer in shape.having(kind)]
    if count > len(candidates):
        raise EffirError(f"{count} sublayers are to be dropped, but the model has {len(candidates)}: drop fewer")
    remaining, order, change = _Remaining(model.base_model, batches), list[Drop](), 0.0
    rises = dict.fromkeys(candidates, 0.0)
    for number in tqdm(range(count), desc="drop", unit=" sublayers", disable=None):
        measured = likeliest(rises) if number else candidates
        changes = dict(zip(measured, remaining.changes(measured), strict=True))
        rises |= {each: (changes[each] - change) / parameters_saved(shape, each[0]) for each in measured}
        kind, layer = min(measured, key=lambda each: (rises[each], each[1]))
        change = changes[kind, layer]
        order.append(Drop(kind, layer, change))
        remaining.drop(kind, layer)
        rises = without_dropped(rises, (kind, layer))
    return order


class _Remaining:
    """The layers of a decoder without the sublayers dropped so far, and its traces. The decoder does not change."""

    def __init__(self, decoder: Any, batches: Batches) -> None:
        self.decoder, self.layers = decoder, list(decoder.layers)
        self.traces = [_trace(decoder, batch) for batch in batches]

    def changes(self, candidates: Sequence[Candidate]) -> Iterator[float]:
        """Yield the change without each candidate; on a CPU candidates are computed side by side."""
        return map_on_cores(self._change, candidates, self.decoder.device)

    def drop(self, kind: Sublayer, layer: int) -> None:
        """Leave out a sublayer from now on."""
        self.layers[layer] = self._without(kind, layer)
        layers = self.layers[layer:]

        @torch.inference_mode()
        def again(trace: _Trace) -> None:
            trace.states[layer + 1 :] = _outputs(layers, trace)

        list(map_on_cores(again, self.traces, self.decoder.device))

    @torch.inference_mode()
    def _change(self, candidate: Candidate) -> float:
        total, tokens = 0.0, 0
        layers = [self._without(*candidate), *self.layers[candidate[1] + 1 :]]
        for trace in self.traces:
            last = deque(_outputs(layers, trace), maxlen=1).pop()
            # 1 - cos of two unit vectors is half their squared distance
            distances = (_directions(self.decoder, last, trace.mask) - trace.reference).square().sum(dim=-1) / 2
            total, tokens = total + float(distances.double().sum()), tokens + len(distances)
        return total / max(tokens, 1)

    def _without(self, kind: Sublayer, layer: int) -> Any:
        """Return a layer of its own that shares all sublayers but one: others compute by the layer meanwhile."""
        config, before = self.decoder.config, self.layers[layer]
        shared = {id(part): part for part in (config, *before.children())}
        after = copy.deepcopy(before, shared)
        cut_layer(after, config, config.intermediate_size if kind == "attention" else 0, kind == "mlp")
        return after


@torch.inference_mode()
def _trace(decoder: Any, batch: Mapping[str, Tensor]) -> _Trace:
    """Run the decoder once and keep the inputs of its layers."""
    ids, mask = (batch[key].to(decoder.device) for key in ("input_ids", "attention_mask"))
    states, arguments = list[Tensor](), list[Arguments]()

    def enter(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])
        arguments.append((args[1:], {key: value for key, value in kwargs.items() if key != "hidden_states"}))

    with ExitStack() as hooks:
        for layer in decoder.layers:
            hooks.enter_context(layer.register_forward_pre_hook(enter, with_kwargs=True))
        hooks.enter_context(decoder.norm.register_forward_pre_hook(lambda _, args: states.append(args[0])))
        decoder(input_ids=ids, attention_mask=mask, use_cache=False)
    return _Trace(states, arguments, mask.bool(), _directions(decoder, states[-1], mask.bool()))


def _directions(decoder: Any, last: Tensor, mask: Tensor) -> Tensor:
    return normalize(decoder.norm(last)[mask].float(), dim=-1)


def _outputs(layers: Sequence[Any], trace: _Trace) -> Iterator[Tensor]:
    """Yield the outputs of the last layers of a decoder, of which ``layers`` may be changed."""
    states = trace.states[-1 - len(layers)]
    for layer, (args, kwargs) in zip(layers, trace.arguments[-len(layers) :], strict=True):
        output = layer(states, *args, **kwargs)
        states = output[0] if isinstance(output, tuple) else output
        yield states
