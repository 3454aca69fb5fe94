"""Rotary positions on the first channels of every head, half-split pairing (Su et al., arXiv 2104.09864)."""

import torch
from torch import Tensor


def rotate(x: Tensor, positions: Tensor, channels: int, base: float = 10_000.0) -> Tensor:
    """x (B, heads, N, d), positions (N,) -> x, its first `channels` rotated; channel i pairs with i + channels / 2."""
    frequency = base ** (-torch.arange(0, channels, 2, device=x.device, dtype=torch.float32) / channels)
    angle = positions.float()[:, None] * frequency  # (N, channels / 2)
    cos, sin = angle.cos(), angle.sin()
    first, second, rest = x[..., : channels // 2], x[..., channels // 2 : channels], x[..., channels:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)
