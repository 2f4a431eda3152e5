"""Data parallelism inside a process: each core encodes its share of a training batch, or one item after another.

The operators of a small model are too short to be worth sharing: two cores that share each one are hardly faster than
one, two that encode half of a batch each are (docs/decisions/0021-thread-parallel.md).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial, reduce
from itertools import accumulate, islice
from threading import Barrier
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Item = TypeVar("Item")
Result = TypeVar("Result")
Features = dict[str, Any]
Encode = Callable[[Features], Tensor]
"""Maps the features of some texts to rows: a vector for each text, or a number for each token."""

LEAST = 4
"""Texts in the share of a thread: with fewer, what each forward costs anyway outweighs the gain."""
HELD = 2048
"""Padded tokens of a batch whose activations are kept for the backward; the others are encoded again there."""


def workers(model: nn.Module, texts: int) -> int:
    """Count the threads that encode ``texts`` texts by ``model``: a core each; 0 where PyTorch itself must do it.

    Dropout draws from one generator, whose order threads would not keep. A distributed model counts its own forwards.
    """
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    drops = any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    trains = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in model.parameters())
    usual = not on_cpu or not trains or drops or distributed
    return 0 if usual else max(1, min(torch.get_num_threads(), texts // LEAST))


def encode_in_threads(model: nn.Module, encode: Encode, shares: Sequence[Sequence[Features]]) -> Tensor:
    """Encode each of ``shares``, the buckets of a thread, in a thread of its own; return all rows in their order.

    The activations of :data:`HELD` tokens are kept, so memory does not grow with the batch; other buckets are encoded
    twice (Gao et al., 2021, "GradCache"). Gradients are added in the order of the buckets, so that a repeated training
    gives the same bytes.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rows: Tensor = _Encoded.apply(encode, shares, *parameters)  # type: ignore[no-untyped-call]
    return rows


class _Encoded(torch.autograd.Function):
    """Rows whose graphs are kept apart, one for each bucket."""

    @staticmethod
    def forward(ctx: Any, encode: Encode, shares: Sequence[Sequence[Features]], *parameters: Tensor) -> Tensor:
        """Return the rows of all buckets."""
        autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

        def run(bucket: Features, held: bool) -> Tensor:
            # A thread has its own autocast and grad mode, but all share the cache of casts.
            with torch.set_grad_enabled(held), torch.autocast("cpu", autocast[1], autocast[0], cache_enabled=False):
                return encode(bucket)

        def run_share(share: Sequence[Features]) -> list[Tensor]:
            ends = accumulate(bucket["input_ids"].numel() for bucket in share)
            return [run(bucket, end <= HELD // len(shares)) for bucket, end in zip(share, ends, strict=True)]

        ctx.run, ctx.shares, ctx.parameters = run, shares, parameters
        ctx.rows = list(side_by_side(len(shares)).map(run_share, shares))
        return torch.cat([rows.detach() for share in ctx.rows for rows in share])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the parameters."""
        run, parameters = ctx.run, ctx.parameters

        def add_up(share: Sequence[Features], rows: list[Tensor], parts: Sequence[Tensor]) -> list[Tensor | None]:
            total: list[Tensor | None] = [None] * len(parameters)
            for bucket, part in zip(share, parts, strict=True):
                graph = rows.pop(0)  # nothing else refers to its activations
                graph = graph if graph.requires_grad else run(bucket, True)
                found = torch.autograd.grad(graph, parameters, part, allow_unused=True)
                total = _added(total, found)
            return total

        parts = iter(torch.split(gradients[0], [len(rows) for share in ctx.rows for rows in share]))
        by_share = [list(islice(parts, len(share))) for share in ctx.rows]
        found = side_by_side(len(ctx.shares)).map(add_up, ctx.shares, ctx.rows, by_share)
        return None, None, *reduce(_added, found)


def _added(total: list[Tensor | None], gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Add ``gradients`` to ``total`` in place; first ones are copied, as autograd may return one for two parameters."""
    for i, gradient in enumerate(gradients):
        if gradient is not None:
            before = total[i]
            total[i] = gradient.clone() if before is None else before.add_(gradient)
    return total


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
