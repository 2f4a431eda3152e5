"""Which arithmetic a run uses: one decision, for training and for encoding a corpus."""

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def uses_bfloat16(precision: Precision) -> bool:
    """Tell whether bfloat16 autocast is on; ``auto``: where the hardware multiplies it natively."""
    if precision != "auto":
        return precision == "bfloat16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def arithmetic(precision: Precision) -> torch.dtype:
    """Name the type in which matrices are multiplied."""
    return torch.bfloat16 if uses_bfloat16(precision) else torch.float32
