#!/usr/bin/env bash
# torch 2.13.0: leaving autocast in one thread empties the cache of casts of all threads; gradients change, without a warning.
#
# Seen: a weight that requires a gradient is used twice inside one `autocast` block on a CPU. Its cast to bfloat16 is cached, so
# the graph has one cast and the two gradients are added in bfloat16. If another thread enters and leaves a block of its own
# between the two, the cache is empty and the weight is cast again: two casts, added in float32. The gradient differs by
# 0.3 % of its largest value. Two threads that run a model under autocast therefore give other bytes each time.
# `cache_enabled=False` gives the same bytes always. The documentation says that autocast's state is thread-local. Expected: a
# cache a thread, or a note.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3.11 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy 2> pip.err || { cat pip.err; exit 1; }
env/bin/python - <<'END'
import threading
import warnings

import torch

warnings.simplefilter("error")
random = torch.Generator().manual_seed(0)
weight, inputs = torch.nn.Parameter(torch.randn(64, 64, generator=random)), torch.randn(8, 64, generator=random)


def alone():
    pass


def another_thread():
    def enter_and_leave():
        with torch.autocast("cpu", torch.bfloat16):
            pass

    thread = threading.Thread(target=enter_and_leave)
    thread.start()
    thread.join()


def trained(between, cached):
    """Casts in the graph of two products of one weight, and the gradient of the weight."""
    weight.grad = None
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
        first = torch.nn.functional.linear(inputs, weight)
        between()
        second = torch.nn.functional.linear(3 * inputs, weight)
    seen, todo = set(), [first.grad_fn, second.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [parent for parent, _ in node.next_functions]
    (first.float().square().sum() + second.float().square().sum()).backward()
    return sum(node.name().startswith("ToCopy") for node in seen), weight.grad.clone()


for cached in (True, False):
    (casts, gradient), (more, other) = trained(alone, cached), trained(another_thread, cached)
    apart = ((gradient - other).abs().max() / gradient.abs().max()).item()
    print(f"cache_enabled={cached}: {casts} cast alone, {more} beside another thread; the gradients differ by {apart:.2%}")
    assert (casts, more) == ((1, 2) if cached else (2, 2))
    assert (apart > 1e-3) if cached else apart == 0
END
