"""The precision of training, and of encoding in PyTorch."""

from typing import Literal

import torch

TrainingPrecision = Literal["auto", "float32", "bfloat16"]


def uses_bfloat16(precision: TrainingPrecision) -> bool:
    """Tell whether bfloat16 autocast is on; ``auto`` uses it if the hardware multiplies it natively."""
    if precision != "auto":
        return precision == "bfloat16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def arithmetic(precision: TrainingPrecision) -> torch.dtype:
    """Return the type in which matrices are multiplied."""
    return torch.bfloat16 if uses_bfloat16(precision) else torch.float32
