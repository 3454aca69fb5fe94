"""Features in few numbers on one scale, for networks that learn from experience.

    y = (x - mean)[:P], and the principal components of (x - mean)[P:];    y / deviation, within [-LIMIT, LIMIT]

What tells two layouts apart is small beside means, and a thousand numbers of which few change cost most of a small
network's time and let it know layouts by heart. The first P, which say most, stay as they are.
"""

import torch
from torch import Tensor, nn

COMPONENTS = 32
FLOOR = 1e-2  # smallest deviation: what hardly changes is not blown up
LIMIT = 5.0  # what was never seen when the scale was taken, success for instance, is not far out


class Standardise(nn.Module):
    """(..., F) -> (..., size)."""

    mean: Tensor
    directions: Tensor
    deviation: Tensor

    def __init__(self, features: int, plain: int, components: int = COMPONENTS):
        super().__init__()
        self.plain = plain  # P
        components = min(components, features - plain)
        self.size = plain + components
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("directions", torch.zeros(features - plain, components))
        self.register_buffer("deviation", torch.ones(self.size))

    def fit(self, seen: Tensor) -> None:
        """seen (n, F)."""
        self.mean.copy_(seen.mean(0))
        rest = (seen - self.mean)[:, self.plain :]
        # in float64: of a few alike rows, as of layouts that are met again and again, float32 finds no directions
        _, directions = torch.linalg.eigh((rest.mT @ rest).double())  # in ascending order
        self.directions.copy_(directions.flip(1)[:, : self.directions.shape[1]])
        self.deviation.copy_(self._turned(seen).std(0).clamp(min=FLOOR))

    def forward(self, x: Tensor) -> Tensor:
        return (self._turned(x) / self.deviation).clamp(-LIMIT, LIMIT)

    def _turned(self, x: Tensor) -> Tensor:
        x = x - self.mean
        return torch.cat([x[..., : self.plain], x[..., self.plain :] @ self.directions], dim=-1)
