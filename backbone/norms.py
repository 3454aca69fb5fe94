"""Normalisation layers."""

import torch
from torch import Tensor, nn


class ZeroCentredRMSNorm(nn.Module):
    """y = x / rms(x) * (1 + w), w starting at 0: weight decay on w pulls the gain to 1 (Qwen3-Next). fp32 inside."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x.float(), (x.shape[-1],), 1 + self.weight, self.eps)
