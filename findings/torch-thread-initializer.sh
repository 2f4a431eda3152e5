#!/usr/bin/env bash
# torch 2.13.0: `torch.set_num_threads` in the initializer of a thread is undone by the thread's first operator.
#
# Seen: a thread pool whose initializer sets one thread computes on as many as the main thread, if the main thread has called
# `set_num_threads` since. The setting is the thread's own (OpenMP), but PyTorch takes the number that was set last, by any
# thread, when a thread asks for the first time. `torch.get_num_threads()` before `set_num_threads(1)` keeps it at one.
# Expected: what a thread sets for itself holds.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3.11 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy 2> pip.err || { cat pip.err; exit 1; }
env/bin/python - <<'END'
from concurrent.futures import ThreadPoolExecutor

import torch


def set_one():
    torch.set_num_threads(1)


def ask_and_set_one():
    torch.get_num_threads()
    torch.set_num_threads(1)


for initializer, expected in ((set_one, 4), (ask_and_set_one, 1)):
    torch.set_num_threads(4)
    pool = ThreadPoolExecutor(1, initializer=initializer)
    pool.submit(int).result()  # the thread has started and set its number
    torch.set_num_threads(4)
    found = pool.submit(torch.get_num_threads).result()
    print(f"{initializer.__name__}: the thread computes on {found}")
    assert found == expected
END
