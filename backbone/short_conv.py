"""A short causal convolution of every channel by itself, SiLU, and the few tokens it remembers between calls.

    y_t = silu(sum_j w_j x_(t - (K - 1 - j) dilation))                 nothing stands before a sequence but zeros

Source: transformers' `causal_conv1d_fn`, whose weight (C, 1, K) this is. Dilated it is Engram's. Notable choices:
channels stay last, where a CPU's vector convolution needs no transposed copy (conv1d takes ten times as long), as one
autograd node, for the library's gradient of such weights is slow too. A history must not have gaps: where padding may
stand between tokens, `real_first` and `take` bring the real ones together. Left out: bias.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def short_conv(x: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    """x (B, (K - 1) dilation + N, C), what a `Tail` joins, weight (C, 1, K) -> (B, N, C) in fp32."""
    with torch.autocast(x.device.type, enabled=False):
        if (
            x.shape[1] == (weight.shape[-1] - 1) * dilation + 1
        ):  # one token: what the library does first would cost more
            return F.silu((x.float()[:, ::dilation] * weight[:, 0].t()).sum(1, keepdim=True))
        return _ShortConv.apply(x.float(), weight.float(), dilation)


class _ShortConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
        y = _channels_last(x, weight, dilation)
        ctx.save_for_backward(x, weight, y)
        ctx.dilation = dilation
        return F.silu(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, y = ctx.saved_tensors
        rows = 1 if x.is_cpu else len(x)  # a row fits into the CPU's cache; a GPU wants few and large operations
        g, N, d_weight = torch.ops.aten.silu_backward(grads[0], y), y.shape[1], torch.zeros_like(weight)
        for j in range(weight.shape[-1]):
            for x_rows, g_rows in zip(x[:, j * ctx.dilation :].split(rows), g.split(rows), strict=True):
                d_weight[:, 0, j] += (x_rows[:, :N] * g_rows).sum((0, 1))
        margin = x.shape[1] - N
        return _channels_last(F.pad(g, (0, 0, margin, margin)), weight.flip(-1), ctx.dilation), d_weight, None


def _channels_last(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """x (B, N + margin, C) -> (B, N, C)."""
    image = x[:, None].permute(0, 3, 1, 2)  # (B, C, 1, N), in memory as before
    y = F.conv2d(image, weight[:, :, None], groups=len(weight), dilation=(1, dilation))
    return y.permute(0, 2, 3, 1)[:, 0].contiguous()


class Tail:
    """The last `length` tokens of every sequence. `fill` stands before its beginning. Replaced, never written to."""

    def __init__(self, length: int, fill: int = 0):
        self.length, self.fill = length, fill
        self.kept: Tensor | None = None

    def join(self, new: Tensor, counts: Tensor | None = None) -> Tensor:
        """new (B, N, ...), of which the first counts (B,) are real -> (B, length + N, ...). Keeps its end."""
        if self.kept is None:
            self.kept = new.new_full((len(new), self.length, *new.shape[2:]), self.fill)
        joined = torch.cat([self.kept, new], 1)
        if counts is None:
            self.kept = joined[:, new.shape[1] :].detach().clone()
        else:
            last = counts[:, None] + torch.arange(self.length, device=new.device)
            self.kept = take(joined.detach(), last)
        return joined


def real_first(real: Tensor) -> Tensor:
    """real (B, N) bool -> the order of tokens (B, N) that puts real ones first. Its argsort puts them back."""
    return (~real).int().argsort(dim=1, stable=True)


def take(x: Tensor, order: Tensor) -> Tensor:
    """x (B, N, ...), order (B, n) -> the tokens it names, row by row, (B, n, ...)."""
    first = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, (order + first).flatten()).unflatten(0, order.shape)
