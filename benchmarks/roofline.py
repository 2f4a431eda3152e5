"""The limit of the processor: the matrix products of a forward alone, prepacked for oneDNN."""

from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from effir.cpu.prepacked_linear import prepacked_product, prepacked_weight
from effir.model.checkpoint import load_model

Shape = tuple[int, int]
ROWS = 1024


def products(folder: Path) -> list[Shape]:
    """List (in, out) of every matrix of a middle layer of a model."""
    layers = [layer for layer in load_model(folder)[0].layers if any(True for _ in layer.mlp.parameters())]
    found = layers[len(layers) // 2].modules()
    return [(each.in_features, each.out_features) for each in found if isinstance(each, torch.nn.Linear)]


def limits(shapes: list[Shape], rounds: int = 20) -> dict[str, float]:
    """Measure GFLOP/s of products (1,024, in) x (in, out) over all ``shapes``; ``float32_mkl`` is PyTorch's own."""
    return {
        "float32": _rate(shapes, rounds, _prepacked(torch.float32)),
        "bfloat16": _rate(shapes, rounds, _prepacked(torch.bfloat16)),
        "int8": _rate(shapes, rounds, _int8),
        "float32_mkl": _rate(shapes, rounds, _plain),
    }


def _rate(shapes: list[Shape], rounds: int, prepare: Any) -> float:
    products = [prepare(*shape) for shape in shapes]
    best = min(_seconds(products) for _ in range(rounds))
    return sum(2 * ROWS * inputs * outputs for inputs, outputs in shapes) / best / 1e9


def _seconds(products: list[Any]) -> float:
    started = perf_counter()
    for product in products:
        product()
    return perf_counter() - started


def _prepacked(dtype: torch.dtype) -> Any:
    def prepare(inputs: int, outputs: int) -> Any:
        rows = torch.randn(ROWS, inputs, dtype=dtype)
        weight = prepacked_weight(torch.randn(outputs, inputs), dtype)
        return lambda: prepacked_product(rows, weight, None)

    return prepare


def _int8(inputs: int, outputs: int) -> Any:
    rows = torch.randint(-127, 127, (ROWS, inputs), dtype=torch.int8)
    weight = torch.randint(-127, 127, (inputs, outputs), dtype=torch.int8)
    return lambda: torch._int_mm(rows, weight)


def _plain(inputs: int, outputs: int) -> Any:
    rows, weight = torch.randn(ROWS, inputs), torch.randn(outputs, inputs)
    return lambda: torch.nn.functional.linear(rows, weight)
