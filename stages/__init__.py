"""The stages of dvc.yaml, one thin program each: read params, call effir, write."""

import gc
import sys

if sys.argv[0] == "-m":
    # `python -m stages.tune` looks for its module, which will import torch. None of that is garbage, and looking for
    # some is a fifth of the time that it takes. stages/program.py turns the collector on where the work begins.
    gc.disable()
