"""Measure: how far each attention, MLP and block turns the residual stream, in one pass (arXiv 2512.20612)."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from effir.errors import EffirError
from effir.model.modeling import norms_of
from effir.model.shape import Sublayer


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
    """Running sums of every sublayer's score: their size does not depend on the number of texts.

    The sums are float64; a batch's directions are float32, as the model computes them.
    """

    def __init__(self, layers: int) -> None:
        self.samples = 0
        self.tokens = 0
        self.sums = {name: torch.zeros(layers, dtype=torch.float64) for name in ("attention", "mlp", "block")}
        self._mask = torch.empty(0)
        self._stream: dict[str, Tensor] = {}

    def expect(self, attention_mask: Tensor) -> None:
        """Count only the tokens where ``attention_mask`` (batch, tokens) is 1 in the forward that follows."""
        self._mask = attention_mask.bool()
        self.samples += len(attention_mask)
        self.tokens += int(self._mask.sum())

    def see(self, place: str, hidden_states: Tensor) -> None:
        """Keep the directions of the real tokens of ``hidden_states`` (batch, tokens, hidden) as ``place``."""
        self._stream[place] = normalize(hidden_states[self._mask].float(), dim=-1)

    def score(self, layer: int) -> None:
        """Add the layer's scores, once its ``in``, ``mid`` and ``out`` have been seen."""
        for name, (start, end) in {"attention": ("in", "mid"), "mlp": ("mid", "out"), "block": ("in", "out")}.items():
            # 1 - cos of two unit vectors is half their squared distance: exactly 0 where nothing changed.
            distances = (self._stream[start] - self._stream[end]).square().sum(dim=-1) / 2
            self.sums[name][layer] += distances.double().sum().cpu()
        self._stream = {"in": self._stream["out"]}  # the next layer's

    def importance(self) -> Importance:
        """Return the means; EffirError where no token was seen or a hidden state was not finite."""
        if self.tokens == 0:
            raise EffirError("there are no texts to measure importance on: name calibration texts that are not empty")
        means = {name: (total / self.tokens).tolist() for name, total in self.sums.items()}
        for layer, score in enumerate(means["block"]):
            if score != score:
                raise EffirError(f"layer {layer} computes numbers that are not finite: load the model in float32")
        return Importance(self.samples, self.tokens, **means)


@contextmanager
def recording(model: Any) -> Iterator[Recorder]:
    """Record a decoder's residual stream before and after every sublayer until the block ends.

    Call ``recorder.expect(attention_mask)`` before each forward.
    """
    layers = model.base_model.layers
    recorder = Recorder(len(layers))
    with ExitStack() as hooks:
        for index, layer in enumerate(layers):
            for handle in _watch(layer, index, recorder):
                hooks.callback(handle.remove)
        yield recorder


def _watch(layer: Any, index: int, recorder: Recorder) -> list[Any]:
    """Attach hooks to a layer: to the input of the norm before its MLP, its output and, of the first, its input."""

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recorder.see("in", args[0] if args else kwargs["hidden_states"])

    def between(module: Any, args: tuple[Any, ...]) -> None:
        recorder.see("mid", args[0])

    def after(module: Any, args: tuple[Any, ...], output: Any) -> None:
        recorder.see("out", output[0] if isinstance(output, tuple) else output)
        recorder.score(index)

    norm_before_mlp = getattr(layer, norms_of(layer)[1][0])
    return [
        *([layer.register_forward_pre_hook(before, with_kwargs=True)] if index == 0 else []),
        norm_before_mlp.register_forward_pre_hook(between),
        layer.register_forward_hook(after),
    ]


def measure_importance(model: Any, batches: Iterable[Mapping[str, Tensor]]) -> Importance:
    """Score every attention, MLP and block of a model, whole or cut, in one pass over ``batches``.

    A batch holds ``input_ids`` and ``attention_mask``, both (batch, tokens); padding is left out of the means.
    EffirError where there is no token to measure on, or a hidden state is not finite.
    """
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), recording(model) as recorder:
            for batch in batches:
                ids, mask = (batch[key].to(model.device) for key in ("input_ids", "attention_mask"))
                recorder.expect(mask)
                model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        model.train(training)
    return recorder.importance()
