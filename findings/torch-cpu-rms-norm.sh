#!/usr/bin/env bash
# torch 2.13.0: on a CPU `rms_norm` is several times slower than `layer_norm`, which computes more.
#
# Seen: forward and backward of 512 rows of 576 float32 numbers, without a gradient of the weight, on one thread: 5.2
# times the time of `layer_norm` (Intel Xeon). `layer_norm` is one kernel. `rms_norm` calls `_fused_rms_norm`, which on a CPU
# is composed of pow, mean, rsqrt, mul and others, each of which reads and writes all rows.
# Expected: the norm without mean and shift takes no longer than the one with them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3.11 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy 2> pip.err || { cat pip.err; exit 1; }
env/bin/python - <<'END'
import statistics
import time

import torch
from torch.nn.functional import layer_norm, rms_norm
from torch.profiler import ProfilerActivity, profile

torch.set_num_threads(1)
rows, weight = torch.randn(512, 576, requires_grad=True), torch.randn(576)
gradient = torch.randn(512, 576)


def step(norm):
    torch.autograd.grad(norm(rows, (576,), weight), rows, gradient)


def seconds(norm):
    started = time.perf_counter()
    for _ in range(20):
        step(norm)
    return time.perf_counter() - started


def operators(norm):
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        norm(rows, (576,), weight)
    return {event.key for event in seen.key_averages()}


for norm in (rms_norm, layer_norm):
    seconds(norm)
pairs = [(seconds(rms_norm), seconds(layer_norm)) for _ in range(9)]
ratio = statistics.median(a / b for a, b in pairs)
used = operators(rms_norm)
print(f"rms_norm takes {ratio:.1f} times as long as layer_norm")
print("operators of rms_norm:", ", ".join(sorted(used)))
print("operators of layer_norm:", ", ".join(sorted(operators(layer_norm))))
assert ratio > 1.5
assert {"aten::_fused_rms_norm", "aten::pow", "aten::mean", "aten::rsqrt", "aten::mul"} <= used
END
