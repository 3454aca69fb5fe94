"""Residual connections that are n parallel streams of width D, read, mixed and written by weights of each token.

    u = sum_i read_i X_i;   y = sublayer(u);   X'_k = write_k y + sum_j mix[k, j] X_j

`ManifoldHyperConnection` (mHC, arXiv 2512.24880, weights and outputs of transformers' `DeepseekV4HyperConnection`):

    [a | b | R] = F f / rms(f),  f = all streams of a token, flat
    read = sigmoid(s1 a + c1) + 1e-6,  write = 2 sigmoid(s2 b + c2),  mix = M^T,  M = doubly_stochastic(s3 R + c3)

A product of doubly stochastic matrices is doubly stochastic: however deep the stack, no signal grows in it.
`HyperConnection` (HC, arXiv 2409.19606) is the baseline without that bound, here in the form mHC's paper gives it:

    [a_j | b_j | R_j] = tanh(F X_j / rms(X_j)), per stream j;  read = s1 a + c1, write = s2 b + c2, mix = (s3 R + c3)^T

A stack `expand`s its input once, keeps the streams through all layers and `Collapse`s them at its end: expanding and
collapsing within a block would be a plain residual. One stream alone needs none of this: `PlainResidual`.

Notable choices: all of it in fp32, whatever autocast says. The exact map `birkhoff` is the default: on a CPU it costs
a fraction of 20 Sinkhorn iterations. Every start is nearly a plain residual: M near the identity, write = 1, weights
that barely depend on the token (s = 0.01). Layer l reads mostly stream l mod n, which lets the streams grow apart.
`_NormedLinear` is one autograd node, so that the normalised streams are never written to memory.
Left out: the single-pass form of DeepSeek-V4.1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .sinkhorn import birkhoff, sinkhorn

NORM_EPS, READ_EPS = 1e-6, 1e-6
Sublayer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class HyperConfig:
    """Sizes of the hyper-connections."""

    identity: float = 4.0  # mHC: logit of M's diagonal at the start; at 4, a stream keeps 0.94 of itself for n = 4
    own: float = 2.0  # mHC: read logit of stream (layer mod n) at the start, and minus that of the others
    dynamic: float = 0.01  # s: weight of the part that depends on the token, at the start


class Weights(NamedTuple):
    """Of T = B N tokens."""

    read: Tensor  # (T, 1, n)
    write: Tensor  # (T, n, 1)
    mix: Tensor  # (T, n, n), from stream j (column) to stream k (row)


class PlainResidual(nn.Module):
    """x + sublayer(x), the connection of a single stream. x (B, N, D)."""

    def forward(self, x: Tensor, sublayer: Sublayer) -> Tensor:
        """x plus what the sublayer gives."""
        return x + sublayer(x)


class ManifoldHyperConnection(nn.Module):
    """Mixes n residual streams by a doubly stochastic matrix (mHC)."""

    def __init__(
        self,
        width: int,
        streams: int,
        cfg: HyperConfig,
        layer: int = 0,
        doubly_stochastic: Callable[[Tensor], Tensor] = birkhoff,
    ):
        """layer: place in the stack, counting sublayers. doubly_stochastic maps logits (n, n, T)."""
        super().__init__()
        n, self.streams, self.doubly_stochastic = streams, streams, doubly_stochastic
        own = cfg.own * (2 * F.one_hot(torch.tensor(layer % n), n).float() - 1)
        self.fn = nn.Parameter(torch.randn((2 + n) * n, n * width) * 0.02)  # rows: read, write, M row by row
        self.base = nn.Parameter(torch.cat([own, torch.zeros(n), cfg.identity * torch.eye(n).flatten()]))
        self.scale = nn.Parameter(torch.full((3,), cfg.dynamic))

    def forward(self, streams: Tensor, sublayer: Sublayer) -> Tensor:
        """streams (B, N, n, D), sublayer (B, N, D) -> (B, N, D). Returns the new streams, in fp32."""
        return _connect(streams, self.weights, sublayer)

    def weights(self, streams: Tensor) -> Weights:
        """streams (T, n, D)."""
        n = self.streams
        sizes = [n, n, n * n]
        logits = _NormedLinear.apply(streams.flatten(1), self.fn).split(sizes)  # (., T)
        parts = zip(logits, self.scale, self.base.split(sizes), strict=True)
        read, write, mix = (part * scale + base[:, None] for part, scale, base in parts)
        matrix = self.doubly_stochastic(mix.unflatten(0, (n, n)))
        return _by_token(read.sigmoid() + READ_EPS, 2 * write.sigmoid(), matrix)


class HyperConnection(nn.Module):
    """Mixes n residual streams by learned, input-dependent weights."""

    def __init__(self, width: int, streams: int, cfg: HyperConfig, layer: int = 0):
        super().__init__()
        n, self.streams = streams, streams
        self.fn = nn.Parameter(torch.zeros(2 + n, width))  # rows: read, write, mix to each stream
        own = F.one_hot(torch.tensor(layer % n), n).float()
        self.base = nn.Parameter(torch.cat([own[:, None], torch.ones(n, 1), torch.eye(n)], 1))  # (n, 2 + n)
        self.scale = nn.Parameter(torch.full((3,), cfg.dynamic))

    def forward(self, streams: Tensor, sublayer: Sublayer) -> Tensor:
        """streams (B, N, n, D), sublayer (B, N, D) -> (B, N, D). Returns the new streams, in fp32."""
        return _connect(streams, self.weights, sublayer)

    def weights(self, streams: Tensor) -> Weights:
        """streams (T, n, D)."""
        n = self.streams
        scale = torch.cat([self.scale[:2], self.scale[2:].expand(n)])
        dynamic = _NormedLinear.apply(streams.flatten(0, 1), self.fn).tanh() * scale[:, None]  # (2 + n, T n)
        read, write, mix = (dynamic.unflatten(1, (-1, n)) + self.base.t()[:, None]).split([1, 1, n])  # (., T, n)
        return Weights(read[0][:, None], write[0][..., None], mix.transpose(0, 1).contiguous())


class Collapse(nn.Module):
    """The end of a stack: one weighted sum of its streams (transformers' `DeepseekV4HyperHead`)."""

    def __init__(self, width: int, streams: int, cfg: HyperConfig):
        super().__init__()
        self.fn = nn.Parameter(torch.randn(streams, streams * width) * 0.02)
        self.base = nn.Parameter(torch.zeros(streams))
        self.scale = nn.Parameter(torch.full((1,), cfg.dynamic))

    def forward(self, streams: Tensor) -> Tensor:
        """streams (B, N, n, D) -> (B, N, D)."""
        B, N, n, D = streams.shape
        flat = streams.reshape(B * N, n, D).float()
        with _fp32(streams):
            logits = _NormedLinear.apply(flat.flatten(1), self.fn) * self.scale + self.base[:, None]
            return torch.bmm((logits.sigmoid() + READ_EPS).t().contiguous()[:, None], flat).view(B, N, D)


RESIDUALS: dict[str, Callable[[int, int, HyperConfig, int], nn.Module]] = {  # (width, streams, cfg, layer)
    "mhc": ManifoldHyperConnection,
    "mhc-sinkhorn": partial(ManifoldHyperConnection, doubly_stochastic=sinkhorn),
    "hc": HyperConnection,
}


def expand(x: Tensor, streams: int) -> Tensor:
    """The beginning of a stack: x (B, N, D) -> (B, N, n, D), every stream a copy."""
    return x.unsqueeze(-2).repeat_interleave(streams, -2)


def _connect(streams: Tensor, weigh: Callable[[Tensor], Weights], sublayer: Sublayer) -> Tensor:
    B, N, n, D = streams.shape
    flat = streams.reshape(B * N, n, D).float()
    with _fp32(streams):
        weights = weigh(flat)
        u = torch.bmm(weights.read, flat).view(B, N, D)
    y = sublayer(u).reshape(B * N, 1, D).float()
    with _fp32(streams):
        return torch.bmm(weights.mix, flat).baddbmm_(weights.write, y).view(B, N, n, D)


def _fp32(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)


def _by_token(read: Tensor, write: Tensor, matrix: Tensor) -> Weights:
    """(n, T), (n, T), M (n, n, T) -> tokens first. Batched products of strided matrices take ten times as long."""
    return Weights(
        read.t().contiguous()[:, None], write.t().contiguous()[..., None], matrix.permute(2, 1, 0).contiguous()
    )


class _NormedLinear(torch.autograd.Function):
    """x (T, K), weight (out, K) -> logits l = W x r (out, T), r = 1 / rms(x).

    Backward, with g = dl * r:  dx = W^T g - x r^2 sum(dl * l) / K;  dW = g x^T.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        power = torch.linalg.vector_norm(x, dim=-1).square_().div_(x.shape[-1])
        inverse = power.add_(NORM_EPS).rsqrt_()
        logits = (weight @ x.t()).mul_(inverse)
        ctx.save_for_backward(x, weight, inverse, logits)
        return logits

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, inverse, logits = ctx.saved_tensors
        inner = (grads[0] * logits).sum(0).mul_(inverse.square()).div_(-x.shape[-1])
        scaled = grads[0] * inverse
        return (scaled.t() @ weight).addcmul_(x, inner[:, None]), scaled @ x
