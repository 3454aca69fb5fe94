"""Means over the part of a batch that has a label. Where nothing has one the mean is 0, not NaN."""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, target: Tensor, ignored: int) -> Tensor:
    """logits (n, classes), target (n,) -> mean over the rows whose target is not `ignored`. 0 where there are none."""
    total = F.cross_entropy(logits, target, ignore_index=ignored, reduction="sum")
    return total / (target != ignored).sum().clamp(min=1)
