"""The precision of training, and of encoding in PyTorch."""

import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, Literal

import torch

from effir.cpu.prepacked_linear import missing_operators, prepacked_product, prepacked_weight
from effir.cpu.threads import say_threads
from effir.model.auto_precision import ROWS, USUAL, Arithmetic, Decision, Product, decide, product_of

TrainingPrecision = Literal["auto", "float32", "bfloat16"]


def decision(precision: TrainingPrecision, config: Any = None) -> Decision:
    """Decide ``auto`` for a model with this ``config``; without one, for the size of SmolLM2-135M.

    A GPU computes in bfloat16 if it can. A CPU must multiply it natively, and not be faster in float32.
    """
    say_threads()
    if precision != "auto":
        return Decision(precision)
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return Decision("bfloat16" if native else "float32")
    if not _multiplies_natively():
        return Decision("float32")
    return _measured(USUAL if config is None else product_of(config))


def uses_bfloat16(precision: TrainingPrecision, config: Any = None) -> bool:
    """Tell whether bfloat16 autocast is on, for a model with this ``config``."""
    return decision(precision, config).arithmetic == "bfloat16"


def arithmetic(precision: TrainingPrecision, config: Any = None) -> torch.dtype:
    """Return the type in which matrices are multiplied, for a model with this ``config``."""
    return torch.bfloat16 if uses_bfloat16(precision, config) else torch.float32


def _multiplies_natively() -> bool:
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


@cache
def _measured(product: Product) -> Decision:
    return decide(f"torch {torch.__version__}", product, _candidates)


def _candidates(product: Product) -> Mapping[Arithmetic, Callable[[], float]]:
    """Prepare the product in both types as training and encoding compute it: prepacked, if PyTorch can."""
    from threadpoolctl import ThreadpoolController

    one_thread = partial(ThreadpoolController().limit, limits=1, user_api="openmp")
    timed = partial(_timed, product, one_thread)
    return {"float32": timed(torch.float32), "bfloat16": timed(torch.bfloat16)}


def _timed(product: Product, one_thread: Callable[[], Any], dtype: torch.dtype) -> Callable[[], float]:
    weight, inputs = torch.ones(product), torch.ones(ROWS, product[1], dtype=dtype)
    plain = bool(missing_operators()) or not torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    packed = weight.to(dtype) if plain else prepacked_weight(weight, dtype)

    def run() -> float:
        with one_thread(), torch.inference_mode():  # torch.set_num_threads changes more, and for good
            started = time.thread_time()
            torch.nn.functional.linear(inputs, packed) if plain else prepacked_product(inputs, packed, None)
            return time.thread_time() - started

    return run
