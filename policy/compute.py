"""Where the networks compute, and in which number format.

The device is a GPU where there is one, else the processor. One GPU: several are left out. The number format is
measured, not guessed: GPUs and processors with bf16 dot products (AVX512-BF16, AMX) run bf16 GEMMs several times faster
than fp32, others run them slower. Weights, optimiser, losses, norms and attention stay fp32 either way: autocast
touches linear layers and convolutions only.
"""

import time
from functools import lru_cache
from typing import Any

import torch

from .errors import PolicyError

CPU = torch.device("cpu")
DEVICES = ("auto", "cpu", "cuda")


def resolve_device(name: str) -> torch.device:
    """auto: a GPU that PyTorch can use, else the processor. PolicyError where `cuda` is asked for and is not there."""
    if name not in DEVICES:
        raise PolicyError(f"unknown device {name!r}; known: {', '.join(DEVICES)}")
    found = name != "cpu" and torch.cuda.is_available()
    if name == "cuda" and not found:
        raise PolicyError(
            "device cuda: PyTorch sees no GPU; use --device cpu, or a CUDA build of PyTorch (`make setup TORCH=cuda`)"
        )
    torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32: keypoints rounded to 10 bits are millimetres off
    return torch.device("cuda" if found else "cpu")


def is_out_of_memory(error: BaseException) -> bool:
    """torch says it by a RuntimeError, of its own kind on a GPU."""
    said = ("can't allocate memory", "out of memory", "not enough memory")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in str(error) for words in said)


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The tensors of a batch and of the dicts in it, on `device`. Those that are there already are not copied."""
    return {k: to_device(v, device) if isinstance(v, dict) else v.to(device) for k, v in batch.items()}


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
    """Waits for what a GPU was asked to do. A processor has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@lru_cache(maxsize=2)
def fastest_dtype(device: torch.device = CPU) -> torch.dtype:
    """bf16 where its GEMM is at least 1.5 times as fast as fp32's, else fp32."""
    half, full = gemm_rate(torch.bfloat16, device), gemm_rate(torch.float32, device)
    return torch.bfloat16 if half > 1.5 * full else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """A context in which matrix products run in `dtype`."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
