"""Normalisation layers, in fp32 whatever comes in.

Notable choice: `rms_norm` is one autograd node with its own backward. PyTorch composes it of small operations on CPUs,
each a pass over memory: twice the time forward, three times backward.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _RMSNorm(torch.autograd.Function):
    """y = w * x / r, r = sqrt(mean(x^2) + eps). dx = (w * g - x * mean(w * g * x) / r^2) / r. dw = sum(g * x / r)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, inverse = _normalised(x, eps)
        ctx.save_for_backward(x, weight, inverse)
        return y.mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (g,) = grads
        x, weight, inverse = ctx.saved_tensors
        D = x.shape[-1]
        product = torch.mul(g, x)
        rows = product.reshape(-1, D)
        grad_weight = (inverse.reshape(1, -1) @ rows).view(D)
        inner = (rows @ weight).view(inverse.shape).mul_(inverse.pow(3)).div_(-D)
        grad_x = torch.mul(g, weight, out=product).mul_(inverse).addcmul_(x, inner)
        return grad_x, grad_weight, None


def _normalised(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x / r, and 1 / r (..., 1)."""
    power = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    inverse = power.add_(eps).rsqrt_()
    return x * inverse, inverse


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """x (..., D) of any float type, weight (D,) -> (..., D) in fp32 (arXiv 1910.07467, equation 4)."""
    if x.is_cuda:
        return F.rms_norm(x.float(), weight.shape, weight, eps)  # one kernel there
    if torch.is_grad_enabled():
        return _RMSNorm.apply(x.float(), weight, eps)
    return _normalised(x.float(), eps)[0].mul_(weight)  # an autograd node costs more than the work at inference


class RMSNorm(nn.Module):
    """Weights start at 1. `gain`, where given, multiplies them: a modulation that all tokens share costs no pass."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        """x (..., D). gain broadcasts to x."""
        if gain is not None and gain.numel() == x.shape[-1]:
            return rms_norm(x, self.weight * gain.reshape(-1), self.eps)
        y = rms_norm(x, self.weight, self.eps)
        return y if gain is None else y * gain


class ZeroCentredRMSNorm(nn.Module):
    """y = x / rms(x) * (1 + w), w starting at 0: weight decay on w pulls the gain to 1 (Qwen3-Next)."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x / rms(x) * (1 + weight), over the last axis."""
        return rms_norm(x, 1 + self.weight, self.eps)


class GatedRMSNorm(nn.Module):
    """y = x / rms(x) * w * silu(z), w starting at 1: the norm behind a linear-attention state (Qwen3-Next)."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x and its gate z (..., D) -> (..., D) in fp32. The norm comes before the gate."""
        return rms_norm(x, self.weight, self.eps) * F.silu(z.float())
