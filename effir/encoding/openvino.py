"""The `openvino` backend: the pooled decoder as an OpenVINO graph, for CPUs; only this module imports it.

``float32`` and ``bfloat16`` run one graph in two arithmetics; ``int8`` is another, with int8 weights and activations.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from effir.encoding.batches import Rows
from effir.encoding.encoder import Batch, TextEncoder, Tokens, Vectors
from effir.encoding.text_reader import TextReader
from effir.files import require

GRAPH = "model.xml"
ALONE = (16, 32)
"""Tokens to which a lone text is padded, for each of them there is a graph of its own: where shapes are open, working
them out at each operator takes up to half of a query's time. Longer texts run as any batch does."""
FEW = 8
"""Texts that wait less one by one in those graphs than together; on two cores (benchmarks/results/serving.md)."""
PEAK = 100.0
"""A product whose inputs reach so many times their root mean square is not quantised: most of them would become 0."""


def write_graph(retriever: Path, into: Path, texts: Sequence[str] = ()) -> None:
    """Write the graph of a retriever folder as ``into/model.xml`` and ``model.bin``; in int8, calibrated on ``texts``.

    Without texts it is float32.
    """
    import openvino

    from effir.encoding.outliers import outlier_ratios
    from effir.encoding.pooled_decoder import PooledDecoder
    from effir.model.checkpoint import load_model

    reader = TextReader.open(retriever)
    model = PooledDecoder(load_model(retriever)[0], reader.pooling, traced=True).eval()
    graph = _traced(model)
    if texts:
        tokens = reader.read(texts, "document")
        graph = _quantised(graph, tokens, outlier_ratios(model, tokens))
    into.mkdir(parents=True, exist_ok=True)
    openvino.save_model(graph, str(into / GRAPH), compress_to_fp16=False)


def open_graph(
    folder: Path, reader: TextReader, precision: str, budget: int, streams: int | None = None
) -> TextEncoder:
    """Open what :func:`write_graph` wrote in ``folder``; ``precision`` as params.yaml names it.

    ``streams`` batches run at a time: left out, one a core, but in float32, which wins nothing by it, one on all cores
    (benchmarks/results/streams.md, on two cores). One thread at a time may encode. EffirError where there is no graph.
    """
    require(folder / GRAPH)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    usual = 1 if precision == "float32" else cores
    graphs = _Graphs(partial(compiled_graph, folder, precision), streams or usual)
    return TextEncoder(reader, graphs.forward, budget, few=FEW)


class _Graphs:
    """A graph as it is compiled for each way of use, when the first such comes: a second, and its weights once more.

    A lone text of up to ``ALONE`` tokens runs in a graph of its length, other batches one after the other on all cores,
    or many of them ``streams`` at a time.
    """

    def __init__(self, compiled: Callable[..., Any], streams: int) -> None:
        self._compile, self.streams = compiled, streams
        self._requests: dict[int | None, Any] = {}
        self._queue: Any = None

    def forward(self, batches: Sequence[Batch]) -> Sequence[Vectors]:
        if self.streams > 1 and len(batches) >= 2 * self.streams:  # fewer would leave cores idle at the end
            return self._together(batches)
        return [self._one(tokens, lengths) for tokens, lengths in batches]

    def _one(self, tokens: Tokens, lengths: Rows) -> Vectors:
        padded = padded_alone(tokens)
        length = None if padded is None else padded.shape[1]
        if length not in self._requests:
            self._requests[length] = self._compile(length).create_infer_request()
        feed = {"input_ids": tokens if padded is None else padded, "lengths": lengths}
        vectors: Vectors = np.array(self._requests[length].infer(feed, share_inputs=True)[0])
        return vectors

    def _together(self, batches: Sequence[Batch]) -> Sequence[Vectors]:
        import openvino

        found: dict[int, Vectors] = {}

        def keep(request: Any, number: int) -> None:
            found[number] = np.array(request.get_output_tensor(0).data)

        if self._queue is None:
            graph = self._compile(NUM_STREAMS=self.streams, PERFORMANCE_HINT="THROUGHPUT")
            self._queue = openvino.AsyncInferQueue(graph, self.streams)
        self._queue.set_callback(keep)
        try:
            for number, (tokens, lengths) in enumerate(batches):
                self._queue.start_async({"input_ids": tokens, "lengths": lengths}, number, share_inputs=True)
        finally:
            self._queue.wait_all()  # what runs reads the batches' own memory
        return [found[number] for number in range(len(batches))]


def padded_alone(tokens: Tokens) -> Tokens | None:
    """Pad a lone text (1, tokens) to the next length that has a graph of its own; None where there is no such length.

    >>> padded_alone(np.ones((1, 17), np.int64)).shape, padded_alone(np.ones((2, 17), np.int64))
    ((1, 32), None)
    """
    count, length = tokens.shape
    wanted = next((each for each in ALONE if each >= length), None) if count == 1 else None
    return None if wanted is None else np.pad(tokens, ((0, 0), (0, wanted - length)))


def compiled_graph(folder: Path, precision: str, length: int | None = None, **settings: object) -> Any:
    """Compile a graph for this processor and any batch, or for one text of ``length`` tokens at a time.

    ``settings`` are OpenVINO's own and overrule effir's.
    """
    import openvino

    core = openvino.Core()
    native = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    bfloat16 = precision == "bfloat16" or (precision in ("auto", "int8") and native)
    usual = {
        "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, on all cores
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
    }
    graph = core.read_model(str(folder / GRAPH))
    if length:
        graph.reshape({"input_ids": [1, length], "lengths": [1]})
    return core.compile_model(graph, "CPU", {**usual, **settings})


def _traced(model: Any) -> Any:
    import openvino
    import torch

    example = {"input_ids": torch.tensor([[5, 6, 7, 2], [8, 9, 2, 0]]), "lengths": torch.tensor([4, 3])}
    with torch.inference_mode():
        graph = openvino.convert_model(model, example_input=example)
    graph.reshape({"input_ids": [-1, -1], "lengths": [-1]})
    return graph


def _quantised(graph: Any, texts: Sequence[Sequence[int]], peaks: Mapping[str, float]) -> Any:
    """Quantise weights by channel and activations by tensor, their ranges taken from texts (token ids) alone."""
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    products = [node.get_friendly_name() for node in graph.get_ops() if node.get_type_name() == "MatMul"]
    spared = {name: [p for p in products if f".{name}/" in p] for name, peak in peaks.items() if peak > PEAK}
    if unknown := [name for name, found in spared.items() if not found]:
        raise ValueError(f"the graph has no product of the name {unknown[0]}, which must not be quantised")
    return nncf.quantize(
        graph,
        nncf.Dataset([{"input_ids": np.array([ids]), "lengths": np.array([len(ids)])} for ids in texts]),
        subset_size=len(texts),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope([p for found in spared.values() for p in found]),
    )
