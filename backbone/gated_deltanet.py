"""Gated DeltaNet: linear attention with a state of constant size that forgets and corrects itself (Qwen3-Next).

    q, k, v = silu(conv(x W)),  q and k of unit length;   beta = sigmoid(x W_b)
    g = -exp(A_log) softplus(x W_a + dt_bias);   o = gated delta rule(q / sqrt(d_k), k, v, beta, g)     delta_rule.py
    y = (rms(o) w silu(z)) W_o,  z = x W_z

Source: arXiv 2412.06464 and transformers' `Qwen3NextGatedDeltaNet`, whose weights, packed per key head, and outputs it
shares. Notable choices: activations stay as packed and the convolution's few weights are packed alike, which moves
less. 1 / sqrt(d_k) is left to the output norm, which only sees it in its eps. Padding is stepped over wherever it
stands. The initial decays are ours, see `init_weights`. Left out: convolution bias, Qwen3.5's split projections.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .delta_rule import chunked, recurrent
from .norms import GatedRMSNorm, rms_norm
from .scope import Scope
from .short_conv import Tail, real_first, short_conv, take

EPS = 1e-6  # beside squared lengths, and in the output norm


@dataclass(frozen=True)
class GatedDeltaNetConfig:
    """Sizes of `GatedDeltaNet`."""

    key_heads: int = 3  # H
    value_heads: int = 6  # a multiple of the key heads, G on each
    key_width: int = 32  # d_k
    value_width: int = 32  # d_v
    kernel: int = 4  # taps of the convolution
    half_lives: tuple[float, float] = (1.0, 500.0)  # tokens, of the first and the last head's state, initially


class GatedDeltaNetCache:
    """The convolution's last tokens and the state: constant memory. Both are replaced and never written to, so that a
    mark is two references."""

    def __init__(self, tail: Tail):
        self.tail = tail
        self.state: Tensor | None = None  # (B, H, G, d_k, d_v) fp32

    def snapshot(self) -> tuple[Tensor | None, Tensor | None]:
        """What `roll_back` needs to return to this point."""
        return self.tail.kept, self.state

    def roll_back(self, mark: object) -> None:
        """Returns to the point at which the snapshot was made."""
        assert isinstance(mark, tuple)
        self.tail.kept, self.state = mark


class GatedDeltaNet(nn.Module):
    """Linear attention with a gated delta rule (Gated DeltaNet, Qwen3-Next)."""

    unit: Tensor

    def __init__(self, width: int, cfg: GatedDeltaNetConfig):
        super().__init__()
        H, G = cfg.key_heads, cfg.value_heads // cfg.key_heads
        if cfg.value_heads != H * G:
            raise ValueError(f"gated deltanet: {cfg.value_heads} value heads do not divide among {H} key heads")
        self.H, self.G, self.d_k, self.d_v = H, G, cfg.key_width, cfg.value_width
        keys, values = H * self.d_k, H * G * self.d_v
        self.in_proj_qkvz = nn.Linear(width, 2 * keys + 2 * values, bias=False)  # per key head: q, k, G v, G z
        self.in_proj_ba = nn.Linear(width, 2 * H * G, bias=False)  # per key head: G b, G a
        mixed = 2 * keys + values
        self.conv1d = nn.Conv1d(
            mixed, mixed, cfg.kernel, groups=mixed, bias=False
        )  # holds weights: all q, all k, all v
        self.A_log, self.dt_bias = nn.Parameter(torch.empty(H * G)), nn.Parameter(torch.empty(H * G))
        self.norm = GatedRMSNorm(self.d_v, eps=EPS * self.d_k)
        self.out_proj = nn.Linear(values, width, bias=False)
        self.register_buffer("unit", torch.full((self.d_k,), self.d_k**-0.5), persistent=False)
        init_weights(self, cfg.half_lives)

    def new_cache(self) -> GatedDeltaNetCache:
        """An empty cache, for decoding step by step."""
        return GatedDeltaNetCache(Tail(self.conv1d.kernel_size[0] - 1))

    def forward(self, x: Tensor, scope: Scope, cache: GatedDeltaNetCache | None = None) -> Tensor:
        """x (B, N, D) -> (B, N, D)."""
        cache = cache or self.new_cache()
        if scope.real is None:
            return self._mix(x, None, cache)
        order = real_first(scope.real)
        return take(self._mix(take(x, order), scope.real.sum(1), cache), order.argsort(1))

    def _mix(self, x: Tensor, counts: Tensor | None, cache: GatedDeltaNetCache) -> Tensor:
        """x (B, N, D), the first counts (B,) tokens real, None: all."""
        values = self.G * self.d_v
        qkv, z = self.in_proj_qkvz(x).unflatten(-1, (self.H, -1)).split([2 * self.d_k + values, values], -1)
        beta, log_decay = self._beta_and_decay(x, counts)
        mixed = short_conv(cache.tail.join(qkv, counts).flatten(2), self._packed_conv()).view(qkv.shape)
        qk, v = mixed.split([2 * self.d_k, values], -1)
        q, k = rms_norm(qk.unflatten(-1, (2, -1)), self.unit, EPS / self.d_k).unbind(-2)
        rule = recurrent if x.shape[1] == 1 else chunked
        out, state = rule(q, k, v.unflatten(-1, (self.G, -1)), beta, log_decay, cache.state)
        cache.state = state.detach()
        return self.out_proj(self.norm(out, z.unflatten(-1, (self.G, -1))).flatten(2))

    def _beta_and_decay(self, x: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, N, H, G) each, in fp32. Both 0 at padding, which the delta rule then steps over."""
        b, a = self.in_proj_ba(x).float().unflatten(-1, (self.H, 2, self.G)).unbind(-2)
        rate, bias = self.A_log.float().exp().view(self.H, self.G), self.dt_bias.view(self.H, self.G)
        beta, log_decay = b.sigmoid(), -rate * F.softplus(a + bias)
        if counts is None:
            return beta, log_decay
        real = (torch.arange(x.shape[1], device=x.device) < counts[:, None])[..., None, None]
        return beta * real, log_decay * real

    def _packed_conv(self) -> Tensor:
        """The convolution's weight in the order of packed activations: per key head q, k, G v."""
        keys = self.H * self.d_k
        parts = self.conv1d.weight.split([keys, keys, self.H * self.G * self.d_v])
        return torch.cat([part.unflatten(0, (self.H, -1)) for part in parts], 1).flatten(0, 1)


@torch.no_grad()
def init_weights(layer: GatedDeltaNet, half_lives: tuple[float, float]) -> None:
    """Every initial value of a layer:

    linear weights   N(0, 0.02)
    convolution      U(-1, 1) / sqrt(kernel)
    A_log            log U(1, 16)
    dt_bias          where an input of zero halves the state in h tokens, h geometric over the heads
    norm             1

    Half-lives, 10th, 50th and 90th percentile: 1.9, 22, 270 tokens for (1, 500), so that the slowest head still holds
    half of what an episode of 500 tokens began with. transformers' values halve the state in 0.04, 0.07, 0.34 tokens,
    which remembers nothing. Mamba-2's habit, dt log-uniform in (1e-3, 1e-1), is 1.4, 11, 91. Spread evenly instead of
    drawn, six heads leave no gap.
    """
    for linear in (layer.in_proj_qkvz, layer.in_proj_ba, layer.out_proj):
        nn.init.normal_(linear.weight, std=0.02)
    rate = torch.empty_like(layer.A_log).uniform_(1, 16)
    shortest, longest = half_lives
    place = (torch.arange(len(rate)) + 0.5) / len(rate)
    dt = math.log(2) / (rate * shortest * (longest / shortest) ** place)
    layer.A_log.copy_(rate.log())
    layer.dt_bias.copy_(dt.expm1().log())  # the inverse of softplus
