"""Measure: the change of the final hidden states without a sublayer, once for each or again after each drop.

Scores taken once rank neighbouring layers together, because each is redundant while the others are present. The
greedy order measures the next candidates in the model without the sublayers dropped so far.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from effir.compress.drop_order import KINDS, Drop, Droppable, Kinds, order_by_score, parameters_saved
from effir.compress.redundancy import Importance
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
    decoder, candidates = model.base_model, [(kind, layer) for kind in kinds for layer in shape.having(kind)]
    with torch.inference_mode():
        traces = [_trace(decoder, batch) for batch in batches]
        for kind, layer in tqdm(candidates, desc="leave out", unit=" sublayers", disable=None):
            scores[kind][layer] = _change_without(decoder, traces, kind, layer)
    return scores


def greedy_order(model: Any, shape: ModelShape, batches: Batches, kinds: Kinds, count: int) -> list[Drop]:
    """Order the first ``count`` sublayers to drop, of the given kinds; the model does not change.

    The least rise of the change per parameter saved comes first. Only the layers after a candidate are computed again.
    A batch holds ``input_ids`` and ``attention_mask``, both (batch, tokens). EffirError if ``count`` is too high.
    """
    candidates = [(kind, layer) for kind in kinds for layer in shape.having(kind)]
    if count > len(candidates):
        raise EffirError(f"{count} sublayers are to be dropped, but the model has {len(candidates)}: drop fewer")
    decoder, order, change = model.base_model, [], 0.0
    with torch.inference_mode(), _reverted(decoder.layers):
        traces = [_trace(decoder, batch) for batch in batches]
        for _ in tqdm(range(count), desc="drop", unit=" sublayers", disable=None):
            changes = {each: _change_without(decoder, traces, *each) for each in candidates}
            rises = {each: (changes[each] - change) / parameters_saved(shape, each[0]) for each in candidates}
            kind, layer = min(candidates, key=lambda each: (rises[each], each[1]))
            change = changes[kind, layer]
            order.append(Drop(kind, layer, change))
            candidates = [(k, i) for k, i in candidates if i != layer or (k != kind and "block" not in (k, kind))]
            _leave_out(decoder, kind, layer)
            for trace in traces:
                trace.states[layer:] = [trace.states[layer], *_outputs(decoder, trace, layer)]
    return order


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


def _outputs(decoder: Any, trace: _Trace, start: int) -> Iterator[Tensor]:
    """Yield the output of each layer from ``start`` on."""
    states = trace.states[start]
    for layer, (args, kwargs) in zip(decoder.layers[start:], trace.arguments[start:], strict=True):
        output = layer(states, *args, **kwargs)
        states = output[0] if isinstance(output, tuple) else output
        yield states


def _change_without(decoder: Any, traces: Sequence[_Trace], kind: Sublayer, layer: int) -> float:
    total, tokens = 0.0, 0
    with _reverted([decoder.layers[layer]]):
        _leave_out(decoder, kind, layer)
        for trace in traces:
            *_, last = _outputs(decoder, trace, layer)
            # 1 - cos of two unit vectors is half their squared distance
            distances = (_directions(decoder, last, trace.mask) - trace.reference).square().sum(dim=-1) / 2
            total, tokens = total + float(distances.double().sum()), tokens + len(distances)
    return total / max(tokens, 1)


def _leave_out(decoder: Any, kind: Sublayer, layer: int) -> None:
    module, config = decoder.layers[layer], decoder.config
    cut_layer(module, config, config.intermediate_size if kind == "attention" else 0, kind == "mlp")


@contextmanager
def _reverted(layers: Iterable[Any]) -> Iterator[None]:
    """Put the sublayers and norms back into the layers when the block ends."""
    before = [(layer, dict(layer.named_children())) for layer in layers]
    try:
        yield
    finally:
        for layer, children in before:
            for name, child in children.items():
                setattr(layer, name, child)
