"""Data parallelism inside a process: each core encodes its share of a training batch, or one item after another.

The operators of a small model are too short to be worth sharing: two cores that share each one are hardly faster than
one, two that encode half of a batch each are (docs/decisions/0021-thread-parallel.md).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from threading import Barrier
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Item = TypeVar("Item")
Result = TypeVar("Result")
Encode = Callable[[Any], Tensor]
"""Maps some texts of a batch to rows: a vector for each text, or a number for each token."""


LEAST = 4
"""Texts in the share of a thread: with fewer, what each forward costs anyway outweighs the gain."""


def workers(model: nn.Module, texts: int) -> int:
    """Count the threads that encode ``texts`` texts by ``model``: a core each, or 1 where threads change the result.

    Dropout draws from one generator, whose order threads would not keep. A distributed model counts its own forwards.
    """
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    drops = any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    trains = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in model.parameters())
    alone = not on_cpu or not trains or drops or distributed
    return 1 if alone else max(1, min(torch.get_num_threads(), texts // LEAST))


def encode_in_threads(model: nn.Module, encode: Encode, shares: Sequence[Any]) -> Tensor:
    """Encode each of ``shares`` in a thread of its own; return their rows one below the other.

    Gradients of the shares are added in their order, so that a repeated training gives the same bytes.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rows: Tensor = _Encoded.apply(encode, shares, *parameters)  # type: ignore[no-untyped-call]
    return rows


class _Encoded(torch.autograd.Function):
    """Rows whose graphs are kept apart, one for each thread."""

    @staticmethod
    def forward(ctx: Any, encode: Encode, shares: Sequence[Any], *parameters: Tensor) -> Tensor:
        """Return the rows of all shares."""
        autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

        def run(share: Any) -> Tensor:  # a thread has its own autocast and grad mode, but all share the cache of casts
            with torch.enable_grad(), torch.autocast("cpu", autocast[1], autocast[0], cache_enabled=False):
                return encode(share)

        ctx.graphs = list(side_by_side(len(shares)).map(run, shares))
        ctx.parameters = parameters
        return torch.cat([graph.detach() for graph in ctx.graphs])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the parameters."""
        graphs, parameters = ctx.graphs, ctx.parameters

        def run(graph: Tensor, gradient: Tensor) -> tuple[Tensor | None, ...]:
            found: tuple[Tensor | None, ...] = torch.autograd.grad(graph, parameters, gradient, allow_unused=True)
            return found

        parts = torch.split(gradients[0], [len(graph) for graph in graphs])
        found = list(side_by_side(len(graphs)).map(run, graphs, parts))
        ctx.graphs = ()
        return None, None, *(_sum(each) for each in zip(*found, strict=True))


def _sum(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return sum(there[1:], start=there[0]) if there else None


def map_on_cores(function: Callable[[Item], Result], items: Sequence[Item], device: torch.device) -> Iterator[Result]:
    """Yield ``function`` of each item, in their order: side by side on a CPU, a core each, else one after the other.

    Fewer items than cores also come one after the other, on all cores. A thread does not inherit ``inference_mode``.
    """
    threads = torch.get_num_threads()
    alone = device.type != "cpu" or threads == 1 or len(items) < threads
    return map(function, items) if alone else side_by_side(threads).map(function, items)


def side_by_side(count: int) -> ThreadPoolExecutor:
    """Return ``count`` threads that share the cores of this one: each of two computes on one of two cores."""
    return _pool(count, max(1, torch.get_num_threads() // count))


@cache
def _pool(count: int, cores: int) -> ThreadPoolExecutor:
    threads, all_started = torch.get_num_threads(), Barrier(count)
    pool = ThreadPoolExecutor(count, initializer=partial(_compute_on, cores))
    list(pool.map(lambda _: all_started.wait(), range(count)))
    torch.set_num_threads(threads)  # what a thread sets for itself is also what later threads begin with
    return pool


def _compute_on(cores: int) -> None:
    torch.get_num_threads()  # PyTorch sets the usual number at a thread's first question, and would do it after us
    torch.set_num_threads(cores)
