"""The stages of dvc.yaml, one thin program each: read params, call effir, write."""

from effir.cpu.threads import limit_threads

limit_threads()  # here, because a stage imports PyTorch before it runs
