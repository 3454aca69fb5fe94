"""Which number format the matrix products run in on this machine: measured, not guessed.

GPUs and processors with bf16 dot products (AVX512-BF16, AMX) run bf16 GEMMs several times faster than fp32; others run
them slower. Weights, optimiser, losses, norms and attention stay fp32 either way: autocast touches linear layers and
convolutions only.
"""

import time
from functools import lru_cache

import torch

CPU = torch.device("cpu")


def gemm_rate(dtype: torch.dtype, device: torch.device = CPU, seconds: float = 0.2) -> float:
    """FLOP/s of a large square matrix product in `dtype`: of a GPU, or at the present number of threads."""
    size = 1024 if device.type == "cpu" else 8192
    a = torch.randn(size, size, device=device).to(dtype)
    for _ in range(3):
        a @ a
    finish(device)
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or count < 3:
        a @ a
        finish(device)
        count += 1
    return 2 * size**3 * count / elapsed


def finish(device: torch.device) -> None:
    """Waits for what a GPU was asked to do; a processor has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@lru_cache(maxsize=2)
def fastest_dtype(device: torch.device = CPU) -> torch.dtype:
    """bf16 where its GEMM is at least 1.5 times as fast as fp32's, else fp32."""
    half, full = gemm_rate(torch.bfloat16, device), gemm_rate(torch.float32, device)
    return torch.bfloat16 if half > 1.5 * full else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
