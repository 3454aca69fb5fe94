"""Which number format the matrix products run in on this machine: measured, not guessed.

Processors with bf16 dot products (AVX512-BF16, AMX) run bf16 GEMMs several times faster than fp32; others run them
slower. Weights, optimiser, losses, norms and attention stay fp32 either way: autocast touches linear layers and
convolutions only.
"""

import time
from functools import lru_cache

import torch


def gemm_rate(dtype: torch.dtype, size: int = 1024, seconds: float = 0.2) -> float:
    """FLOP/s of a square matrix product in `dtype` at the present number of threads."""
    a = torch.randn(size, size).to(dtype)
    for _ in range(3):
        a @ a
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or count < 3:
        a @ a
        count += 1
    return 2 * size**3 * count / elapsed


@lru_cache(maxsize=1)
def fastest_dtype() -> torch.dtype:
    """bf16 where its GEMM is at least 1.5 times as fast as fp32's, else fp32."""
    if torch.cuda.is_available():
        return torch.bfloat16
    return torch.bfloat16 if gemm_rate(torch.bfloat16) > 1.5 * gemm_rate(torch.float32) else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
