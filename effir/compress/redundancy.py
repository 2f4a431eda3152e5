"""Measure: how far each attention, MLP and block turns the residual stream, in one pass (arXiv 2512.20612)."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

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
    """Running sums of every sublayer's score, so that memory does not grow with the number of texts.

    The sums are float64, the directions of a batch float32.
    """

    def __init__(self, layers: int) -> None:
        self.samples = self.tokens = 0
        self.sums = {name: torch.zeros(layers, dtype=torch.float64) for name in ENDS}
        self._mask = torch.empty(0)
        self._directions: dict[str, Tensor] = {}

    def start_batch(self, attention_mask: Tensor) -> None:
        """Count only the tokens where ``attention_mask`` (batch, tokens) is 1 in the next forward."""
        self._mask = attention_mask.bool()
        self.samples += len(attention_mask)
        self.tokens += int(self._mask.sum())

    def record(self, point: str, hidden_states: Tensor) -> None:
        """Keep the directions of the real tokens of ``hidden_states`` (batch, tokens, hidden) at ``point``."""
        self._directions[point] = normalize(hidden_states[self._mask].float(), dim=-1)

    def score(self, layer: int) -> None:
        """Add the scores of a layer, after its ``in``, ``mid`` and ``out`` are recorded."""
        for name, (start, end) in ENDS.items():
            # 1 - cos of two unit vectors is half their squared distance: exactly 0 where nothing changed.
            distances = (self._directions[start] - self._directions[end]).square().sum(dim=-1) / 2
            self.sums[name][layer] += distances.double().sum().cpu()
        self._directions = {"in": self._directions["out"]}  # of the next layer

    def importance(self) -> Importance:
        """Return the means; EffirError without any token, or with a hidden state that is not finite."""
        if self.tokens == 0:
            raise EffirError("there are no texts to measure importance on: give calibration texts that are not empty")
        means = {name: (total / self.tokens).tolist() for name, total in self.sums.items()}
        for layer, score in enumerate(means["block"]):
            if score != score:
                raise EffirError(f"layer {layer} computes numbers that are not finite: load the model in float32")
        return Importance(self.samples, self.tokens, **means)


@contextmanager
def recording(model: Any) -> Iterator[Recorder]:
    """Record the residual stream of a decoder before and after every sublayer until the block ends."""
    layers = model.base_model.layers
    recorder = Recorder(len(layers))

    def before_layer(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recorder.record("in", args[0] if args else kwargs["hidden_states"])

    def after_layer(index: int, module: Any, args: tuple[Any, ...], output: Any) -> None:
        recorder.record("out", output[0] if isinstance(output, tuple) else output)
        recorder.score(index)

    with ExitStack() as hooks:
        hooks.enter_context(layers[0].register_forward_pre_hook(before_layer, with_kwargs=True))
        for index, layer in enumerate(layers):
            norm = getattr(layer, norms_of(layer)[1][0])
            hooks.enter_context(norm.register_forward_pre_hook(lambda _, args: recorder.record("mid", args[0])))
            hooks.enter_context(layer.register_forward_hook(partial(after_layer, index)))
        yield recorder


def measure_importance(model: Any, batches: Iterable[Mapping[str, Tensor]]) -> Importance:
    """Score every attention, MLP and block of a model, uncompressed or cut, in one pass over ``batches``.

    A batch holds ``input_ids`` and ``attention_mask``, both (batch, tokens). Padding does not count.
    EffirError without any token, or with a hidden state that is not finite.
    """
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), recording(model) as recorder:
            for batch in batches:
                ids, mask = (batch[key].to(model.device) for key in ("input_ids", "attention_mask"))
                recorder.start_batch(mask)
                model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        model.train(training)
    return recorder.importance()
