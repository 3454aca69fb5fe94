"""Features on one scale, for networks that learn from experience: what tells layouts apart is small beside means."""

import torch
from torch import Tensor, nn

FLOOR = 1e-2  # smallest deviation: what hardly changes is not blown up


class Standardise(nn.Module):
    """(x - mean) / deviation, (..., F) -> (..., F); x itself until it was fitted."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))

    def fit(self, seen: Tensor) -> None:
        """seen (n, F)."""
        self.mean.copy_(seen.mean(0))
        self.deviation.copy_(seen.std(0).clamp(min=FLOOR))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation
