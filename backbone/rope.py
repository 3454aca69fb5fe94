"""Rotary positions on the first channels of every head (Su et al., arXiv 2104.09864).

    angle[n, i] = position[n] / base^(2 i / channels);  (a, b) -> (a cos - b sin, b cos + a sin)

Two pairings of channels: halves (a = x[i], b = x[i + channels / 2], LLaMA, Qwen) and pairs (a = x[2 i], b = x[2 i + 1],
DeepSeek, Z-Image). Channels past the angles' pass through: partial rotation.

Notable choices: pairs are complex numbers, so their rotation is one product, a quarter of the time of halves on a CPU.
Halves are one autograd node that fills its output in place and whose backward is the rotation by the negative angle.
Contexts longer than those trained on: yarn.py. Left out: other rescaled frequencies, positions on several axes.
"""

from typing import Any

import torch
from torch import Tensor

from .yarn import Yarn

Angles = tuple[Tensor, Tensor]  # cosine and sine, (N, channels / 2) or (B, N, channels / 2) each


def angles(positions: Tensor, channels: int, base: float = 10_000.0, yarn: Yarn | None = None) -> Angles:
    """positions (N,) or (B, N) -> cosine and sine of each pair's angle. In fp32, as the LLaMA family is trained."""
    exponents = torch.arange(0, channels, 2, device=positions.device, dtype=torch.float32) / channels
    frequencies = 1.0 / base**exponents
    if yarn is None:
        angle = positions.float()[..., None] * frequencies
        return angle.cos(), angle.sin()
    angle = positions.float()[..., None] * yarn.slowed(frequencies, base)
    return angle.cos() * yarn.amplitude, angle.sin() * yarn.amplitude


def rotate(x: Tensor, positions: Tensor, channels: int, base: float = 10_000.0) -> Tensor:
    """x (B, heads, N, d), positions (N,) -> x, its first `channels` rotated. Channel i pairs with i + channels / 2."""
    return rotate_halves(x, angles(positions, channels, base))


def rotate_halves(x: Tensor, angles: Angles) -> Tensor:
    """x (B, heads, N, d) -> the same shape in fp32. Channel i pairs with i + channels / 2."""
    cos, sin = _over_heads(angles)
    if torch.is_grad_enabled():
        return _Rotation.apply(x.float(), cos, sin)
    return _rotated(x.float(), cos, sin)  # an autograd node costs more than the work of a step


def rotate_pairs(x: Tensor, angles: Angles) -> Tensor:
    """x (B, heads, N, d) -> the same shape in fp32. Channel 2 i pairs with 2 i + 1. d must be even."""
    cos, sin = _over_heads(angles)
    channels = 2 * cos.shape[-1]
    pairs = torch.view_as_complex(x[..., :channels].float().unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(-2)
    return turned if channels == x.shape[-1] else torch.cat([turned, x[..., channels:]], dim=-1)


def _over_heads(angles: Angles) -> Angles:
    cos, sin = angles
    return (cos, sin) if cos.dim() == 2 else (cos[:, None], sin[:, None])


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = cos.shape[-1]
    a, b, y = x[..., :half], x[..., half : 2 * half], torch.empty_like(x)
    torch.mul(a, cos, out=y[..., :half]).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=y[..., half : 2 * half]).addcmul_(a, sin)
    y[..., 2 * half :] = x[..., 2 * half :]
    return y


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(grads[0], cos, -sin), None, None
