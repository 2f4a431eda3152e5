"""Measure: how far each attention, MLP and block turns the residual stream, in one pass (arXiv 2512.20612)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from threading import local
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from effir.cpu.thread_parallel import map_on_cores
from effir.errors import EffirError
from effir.model.modeling import norms_of
from effir.model.shape import Sublayer

# The points of the residual stream before and after each sublayer.
ENDS: Mapping[Sublayer, tuple[str, str]] = {"attention": ("in", "mid"), "mlp": ("mid", "out"), "block": ("in", "out")}


@dataclass(frozen=True)
class Importance:
    """Mean ``1 - cos(x_in, x_out)`` of every layer's sublayers over ``tokens`` tokens of ``samples`` texts."""

    samples: int
    tokens: int
    attention: list[float]
    mlp: list[float]
    block: list[float]

    def scores(self) -> dict[Sublayer, list[float]]:
        """Return the scores of each kind of sublayer, by layer."""
        return {"attention": self.attention, "mlp": self.mlp, "block": self.block}


class Recorder:
    """The scores of every sublayer, summed over the tokens of one batch: memory does not grow with the number of texts.

    ``sums`` is (kinds of :data:`ENDS`, layers), float64. The directions of the batch are float32.
    """

    def __init__(self, layers: int, attention_mask: Tensor) -> None:
        """Count only the tokens where ``attention_mask`` (batch, tokens) is 1."""
        self.sums = torch.zeros(len(ENDS), layers, dtype=torch.float64)
        self._mask = attention_mask.bool()
        self._directions: dict[str, Tensor] = {}

    def record(self, point: str, hidden_states: Tensor) -> None:
        """Keep the directions of the real tokens of ``hidden_states`` (batch, tokens, hidden) at ``point``."""
        self._directions[point] = normalize(hidden_states[self._mask].float(), dim=-1)

    def score(self, layer: int) -> None:
        """Add the scores of a layer, after its ``in``, ``mid`` and ``out`` are recorded."""
        for sums, (start, end) in zip(self.sums, ENDS.values(), strict=True):
            # 1 - cos of two unit vectors is half their squared distance: exactly 0 where nothing changed.
            distances = (self._directions[start] - self._directions[end]).square().sum(dim=-1) / 2
            sums[layer] += distances.double().sum().cpu()
        self._directions = {"in": self._directions["out"]}  # of the next layer


def mean_importance(sums: Sequence[Tensor], masks: Sequence[Tensor]) -> Importance:
    """Average the sums of some batches, each (kinds, layers), over the tokens where their masks (batch, tokens) are 1.

    EffirError without any token, or with a hidden state that is not finite.
    """
    tokens = sum(int(mask.sum()) for mask in masks)
    if tokens == 0:
        raise EffirError("there are no texts to measure importance on: give calibration texts that are not empty")
    total = sum(sums[1:], start=sums[0])  # in the order of the batches, so that a repetition gives the same bytes
    means = dict(zip(ENDS, (total / tokens).tolist(), strict=True))
    for layer, score in enumerate(means["block"]):
        if score != score:
            raise EffirError(f"layer {layer} computes numbers that are not finite: load the model in float32")
    return Importance(sum(map(len, masks)), tokens, **means)


@contextmanager
def recording(model: Any) -> Iterator[Callable[[Tensor], Recorder]]:
    """Record the residual stream of a decoder before and after every sublayer until the block ends.

    Yields a function that takes the attention mask of the thread's next forward and returns its recorder.
    """
    layers, of_thread = model.base_model.layers, local()

    def start(attention_mask: Tensor) -> Recorder:
        recorder = of_thread.recorder = Recorder(len(layers), attention_mask)
        return recorder

    def before_layer(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        of_thread.recorder.record("in", args[0] if args else kwargs["hidden_states"])

    def before_mlp_norm(module: Any, args: tuple[Any, ...]) -> None:
        of_thread.recorder.record("mid", args[0])

    def after_layer(index: int, module: Any, args: tuple[Any, ...], output: Any) -> None:
        of_thread.recorder.record("out", output[0] if isinstance(output, tuple) else output)
        of_thread.recorder.score(index)

    with ExitStack() as hooks:
        hooks.enter_context(layers[0].register_forward_pre_hook(before_layer, with_kwargs=True))
        for index, layer in enumerate(layers):
            norm = getattr(layer, norms_of(layer)[1][0])
            hooks.enter_context(norm.register_forward_pre_hook(before_mlp_norm))
            hooks.enter_context(layer.register_forward_hook(partial(after_layer, index)))
        yield start


def measure_importance(model: Any, batches: Iterable[Mapping[str, Tensor]]) -> Importance:
    """Score every attention, MLP and block of a model, uncompressed or cut, in one pass over ``batches``.

    A batch holds ``input_ids`` and ``attention_mask``, both (batch, tokens). Padding does not count. On a CPU batches
    are computed side by side. EffirError without any token, or with a hidden state that is not finite.
    """
    training, batches = model.training, list(batches)
    model.eval()

    @torch.inference_mode()
    def sums(batch: Mapping[str, Tensor]) -> Tensor:
        ids, mask = (batch[key].to(model.device) for key in ("input_ids", "attention_mask"))
        recorder = start(mask)
        model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        return recorder.sums

    try:
        with recording(model) as start:
            found = map_on_cores(sums, batches, model.device)
            each = list(tqdm(found, desc="measure", total=len(batches), unit=" batches", disable=None))
    finally:
        model.train(training)
    return mean_importance(each, [batch["attention_mask"] for batch in batches])
