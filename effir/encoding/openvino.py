"""The `openvino` backend: the pooled decoder as an OpenVINO graph, for CPUs. Only this module imports openvino.

``float32`` and ``bfloat16`` run the same graph. ``int8`` is a second graph, with int8 weights and activations.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from effir.cpu.threads import say_threads, shown_processors, usable_cores
from effir.encoding.encoder import Batch, Rows, TextEncoder, Tokens, Vectors
from effir.encoding.text_reader import TextReader
from effir.files import read_json, require
from effir.model.auto_precision import ROWS, Arithmetic, Decision, Product, decide, product_of
from effir.model.prompt_config import transformer_of

GRAPH = "model.xml"
HINTS: Mapping[Arithmetic, str] = {"float32": "f32", "bfloat16": "bf16"}
SINGLE = (16, 32)
"""Lengths to which a single text is padded. Each has a graph of fixed shape: inferring dynamic shapes at each operator
takes up to half of a query's time. Longer texts run as batches do."""
FEW = 8
"""Texts that take less one by one in those graphs than in one batch, on two cores (benchmarks/results/serving.md)."""
OUTLIER = 100.0
"""A matrix product whose largest input is this many times the root mean square is not quantised: most of its inputs
would be rounded to 0."""


def write_graph(retriever: Path, into: Path, texts: Sequence[str] = ()) -> None:
    """Write the graph of a retriever folder into ``into``: int8 if there are calibration ``texts``, else float32."""
    from effir.encoding.pooled_decoder import PooledDecoder
    from effir.model.checkpoint import load_model

    reader = TextReader.open(retriever)
    model = PooledDecoder(load_model(transformer_of(retriever))[0], reader.pooling, traced=True).eval()
    save_graph(model, into, reader.read(texts, "document") if texts else ())


def save_graph(model: Any, into: Path, texts: Sequence[Sequence[int]] = ()) -> None:
    """Write the graph of a module that maps (input_ids, lengths) to unit vectors, as :class:`PooledDecoder` does.

    ``texts`` are token ids, for int8.
    """
    import openvino

    from effir.encoding.pooled_decoder import outlier_ratios

    graph = _traced(model)
    if texts:
        graph = _quantised(graph, texts, outlier_ratios(model, texts))
    into.mkdir(parents=True, exist_ok=True)
    openvino.save_model(graph, str(into / GRAPH), compress_to_fp16=False)


def open_graph(
    folder: Path, reader: TextReader, precision: str, budget: int, streams: int | None = None
) -> TextEncoder:
    """Open the graph that :func:`write_graph` wrote into ``folder``, for one thread; MissingError if there is none.

    ``streams`` batches run at a time. The default is one for each core, but a single one for float32, which gains
    nothing from more (benchmarks/results/streams.md, on two cores).
    """
    require(folder / GRAPH)
    computes = graph_decision(folder, precision)
    usual = 1 if precision != "int8" and computes.arithmetic == "float32" else usable_cores()
    graphs = _Graphs(partial(compiled_graph, folder, precision), streams or usual)
    return TextEncoder(reader, graphs.forward, budget, few=FEW, computes=computes)


class _Graphs:
    """One graph, compiled for each kind of use at its first use: this takes a second and a copy of the weights.

    A single text runs in a graph of its length in ``SINGLE``. Batches run one after the other on all cores, or, if they
    are many, ``streams`` at a time.
    """

    def __init__(self, compiled: Callable[..., Any], streams: int) -> None:
        self._compile, self.streams = compiled, streams
        self._requests: dict[int | None, Any] = {}
        self._queue: Any = None

    def forward(self, batches: Sequence[Batch]) -> Iterable[Vectors]:
        if self.streams > 1 and len(batches) >= 2 * self.streams:  # fewer would leave cores idle at the end
            return self._concurrent(batches)
        return (self._one(tokens, lengths) for tokens, lengths in batches)

    def _one(self, tokens: Tokens, lengths: Rows) -> Vectors:
        padded = padded_single(tokens)
        length = None if padded is None else padded.shape[1]
        if length not in self._requests:
            self._requests[length] = self._compile(length).create_infer_request()
        feed = {"input_ids": tokens if padded is None else padded, "lengths": lengths}
        vectors: Vectors = np.array(self._requests[length].infer(feed, share_inputs=True)[0])
        return vectors

    def _concurrent(self, batches: Sequence[Batch]) -> Iterator[Vectors]:
        import openvino

        found: dict[int, Vectors] = {}

        def keep(request: Any, number: int) -> None:
            found[number] = np.array(request.get_output_tensor(0).data)

        if self._queue is None:
            graph = self._compile(NUM_STREAMS=self.streams, PERFORMANCE_HINT="THROUGHPUT")
            self._queue = openvino.AsyncInferQueue(graph, self.streams)
        self._queue.set_callback(keep)
        following = 0
        try:
            for number, (tokens, lengths) in enumerate(batches):
                self._queue.start_async({"input_ids": tokens, "lengths": lengths}, number, share_inputs=True)
                while following in found:
                    yield found.pop(following)
                    following += 1
        finally:
            self._queue.wait_all()  # the running requests read the memory of the batches
        yield from (found[number] for number in range(following, len(batches)))


def padded_single(tokens: Tokens) -> Tokens | None:
    """Pad a single text (1, tokens) to the next length in ``SINGLE``; None for a longer text or several texts.

    >>> padded_single(np.ones((1, 17), np.int64)).shape, padded_single(np.ones((2, 17), np.int64))
    ((1, 32), None)
    """
    count, length = tokens.shape
    wanted = next((each for each in SINGLE if each >= length), None) if count == 1 else None
    return None if wanted is None else np.pad(tokens, ((0, 0), (0, wanted - length)))


def compiled_graph(folder: Path, precision: str, length: int | None = None, **settings: object) -> Any:
    """Compile a graph for any batch, or for one text of ``length`` tokens; ``settings`` override OpenVINO's."""
    import openvino

    core = openvino.Core()
    usual: dict[str, object] = {
        "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, on all cores
        "INFERENCE_PRECISION_HINT": HINTS[graph_decision(folder, precision).arithmetic],
    }
    if (cores := usable_cores()) < shown_processors():  # OpenVINO does not look at a container's quota
        usual["INFERENCE_NUM_THREADS"] = cores
    graph = core.read_model(str(folder / GRAPH))
    if length:
        graph.reshape({"input_ids": [1, length], "lengths": [1]})
    return core.compile_model(graph, "CPU", {**usual, **settings})


def graph_decision(folder: Path, precision: str) -> Decision:
    """Decide in what the graph in ``folder`` computes, of ``int8`` what is not quantised; ``auto`` is measured."""
    import openvino

    say_threads()
    if precision in ("float32", "bfloat16"):
        return Decision("bfloat16" if precision == "bfloat16" else "float32")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return Decision("float32")
    config = folder.parents[1] / "config.json"  # of the retriever
    return _measured(product_of(read_json(config) if config.is_file() else {}))


@cache
def _measured(product: Product) -> Decision:
    import openvino

    return decide(f"openvino {openvino.__version__}", product, _candidates)


def _candidates(product: Product) -> Mapping[Arithmetic, Callable[[], float]]:
    """Prepare the product in both types, on one thread, which belongs to OpenVINO."""
    import openvino

    inputs = np.ones((ROWS, product[1]), np.float32)
    rows = openvino.opset13.parameter(inputs.shape, np.float32)
    weight = openvino.opset13.constant(np.ones(product, np.float32))
    graph = openvino.Model([openvino.opset13.matmul(rows, weight, False, True)], [rows], "product")

    def timed(hint: str) -> Callable[[], float]:
        settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
        request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()

        def run() -> float:
            started = time.process_time()
            request.infer([inputs], share_inputs=True, share_outputs=True)
            return time.process_time() - started

        return run

    return {name: timed(hint) for name, hint in HINTS.items()}


def _traced(model: Any) -> Any:
    import openvino
    import torch

    example = {"input_ids": torch.tensor([[5, 6, 7, 2], [8, 9, 2, 0]]), "lengths": torch.tensor([4, 3])}
    with torch.inference_mode():
        graph = openvino.convert_model(model, example_input=example)
    graph.reshape({"input_ids": [-1, -1], "lengths": [-1]})
    return graph


def _quantised(graph: Any, texts: Sequence[Sequence[int]], outliers: Mapping[str, float]) -> Any:
    """Quantise weights by channel and activations by tensor, with ranges from ``texts`` (token ids)."""
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    products = [node.get_friendly_name() for node in graph.get_ops() if node.get_type_name() == "MatMul"]
    spared = {name: [p for p in products if f".{name}/" in p] for name, ratio in outliers.items() if ratio > OUTLIER}
    if unknown := [name for name, found in spared.items() if not found]:
        raise ValueError(f"the graph has no matrix product named {unknown[0]}, which must not be quantised")
    return nncf.quantize(
        graph,
        nncf.Dataset([{"input_ids": np.array([ids]), "lengths": np.array([len(ids)])} for ids in texts]),
        subset_size=len(texts),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope([p for found in spared.values() for p in found]),
    )
