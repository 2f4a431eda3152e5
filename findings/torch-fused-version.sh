#!/usr/bin/env bash
# torch 2.13.0: a fused optimiser changes parameters and leaves their version counters as they are.
#
# Seen: `AdamW(fused=True)`, the default of transformers' Trainer, changes a weight between a forward and its backward, and
# the backward uses the new weight: no error, another gradient. With `foreach=True` autograd raises "modified by an inplace
# operation". `_version` stays 0, so a cache that asks whether a parameter has changed keeps the old value.
# Expected: the check that autograd makes for each in-place operation holds for the fused one too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3.11 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy 2> pip.err || { cat pip.err; exit 1; }
env/bin/python - <<'END'
import torch


def gradient_after_step(**kind):
    """d(w * x)/dx is w, which is 1 in the forward; a step at rate 0.1 makes it 0.9."""
    weight, x = torch.nn.Parameter(torch.ones(1)), torch.ones(1, requires_grad=True)
    optimiser = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.0, **kind)
    output = weight * x
    weight.grad = torch.ones(1)
    optimiser.step()
    print(kind, "version", weight._version, "weight", round(weight.item(), 3))
    output.backward()
    return round(x.grad.item(), 3)


try:
    gradient_after_step(foreach=True)
    raise SystemExit("foreach: no error")
except RuntimeError as error:
    assert "modified by an inplace operation" in str(error)
    print("foreach: RuntimeError")
found = gradient_after_step(fused=True)
print("fused: gradient", found, "instead of 1.0")
assert found == 0.9
END
