"""Where the networks compute: a GPU where there is one, else the processor. One GPU: several are left out."""

from typing import Any

import torch

from .errors import PolicyError

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


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The tensors of a batch and of the dicts in it, on `device`; those that are there already are not copied."""
    return {k: to_device(v, device) if isinstance(v, dict) else v.to(device) for k, v in batch.items()}
