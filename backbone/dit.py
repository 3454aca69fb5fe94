"""Single-stream diffusion-transformer blocks with per-token time, after Z-Image (arXiv 2511.22699).

One set of weights serves clean context tokens and noisy action tokens. Only the time each token carries differs:
context and committed actions have t = 1 (clean), noisy actions have t in [0, 1).

    x <- x + tanh(g1) * RMS2(Attention(RMS1(x) * (1 + s1)))
    x <- x + tanh(g2) * RMS4(SwiGLU(RMS3(x) * (1 + s2)))          [s1, g1, s2, g2] = W c(t) + b

Context tokens never see action tokens, so their keys and values are computed once an observation and shared by all
noise draws in training and by all Euler steps at inference: `context` then `actions` instead of one joint pass.
Left out of the paper's block: 3-D axial positions (our tokens carry learned position embeddings) and padding tokens.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .feed_forward import swiglu
from .norms import RMSNorm

KeyValue = tuple[Tensor, Tensor]  # each (B, heads, N, D / heads)


@dataclass(frozen=True)
class DiTConfig:
    """Sizes of `DiT`."""

    width: int = 192  # D
    heads: int = 6
    layers: int = 4
    ffn_width: int = 512  # hidden width of the SwiGLU
    time_width: int = 128  # width of the embedding of t


class TimeEmbedding(nn.Module):
    """t (...,) in [0, 1] -> (..., width): sines and cosines with periods from 4e-3 to 4 (pi0), then a two-layer MLP."""

    periods: Tensor

    def __init__(self, width: int):
        super().__init__()
        exponents = torch.linspace(math.log(4e-3), math.log(4.0), width // 2)
        self.register_buffer("periods", exponents.exp(), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """Times in [0, 1] -> their embeddings."""
        angle = 2 * math.pi * t.unsqueeze(-1) / self.periods
        return self.mlp(torch.cat([angle.sin(), angle.cos()], dim=-1))


class DiTBlock(nn.Module):
    """One attention and one feed-forward layer, both modulated by the token's own time."""

    def __init__(self, cfg: DiTConfig):
        super().__init__()
        D = cfg.width
        self.heads = cfg.heads
        self.qkv = nn.Linear(D, 3 * D, bias=False)
        self.out = nn.Linear(D, D, bias=False)
        self.up = nn.Linear(D, 2 * cfg.ffn_width, bias=False)
        self.down = nn.Linear(cfg.ffn_width, D, bias=False)
        self.norms = nn.ModuleList(RMSNorm(D, eps=1e-6) for _ in range(4))
        self.query_norm = RMSNorm(D // cfg.heads, eps=1e-6)
        self.key_norm = RMSNorm(D // cfg.heads, eps=1e-6)
        self.modulation = nn.Linear(cfg.time_width, 4 * D)

    def forward(self, x: Tensor, c: Tensor, past: KeyValue | None = None, mask: Tensor | None = None):
        """x (B, N, D), c (B or 1, N or 1, time_width).
        past: context keys and values that every token sees.

        mask (N, N_past + N) is True where row may look at column. Returns the new x and this block's (k, v) of x alone.
        """
        s1, g1, s2, g2 = self.modulation(c).chunk(4, dim=-1)
        q, k, v = self._project(self.norms[0](x, 1 + s1))
        keys, values = (k, v) if past is None else (torch.cat([past[0], k], 2), torch.cat([past[1], v], 2))
        with torch.autocast(x.device.type, enabled=False):  # bf16 attention is 3x slower than fp32 backward on CPUs
            attended = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        x = x + self.norms[1](self.out(attended.transpose(1, 2).flatten(2)), g1.tanh())
        x = x + self.norms[3](self._feed_forward(self.norms[2](x, 1 + s2)), g2.tanh())
        return x, (k, v)

    def key_value(self, x: Tensor, c: Tensor) -> KeyValue:
        """What `forward` returns as (k, v), alone."""
        s1 = self.modulation(c).chunk(4, dim=-1)[0]
        return self._project(self.norms[0](x, 1 + s1))[1:]

    def _feed_forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):  # casts whole parameters once a step, and views every time
            gate, up = self.up(x).chunk(2, dim=-1)
            return self.down(F.silu(gate) * up)
        gate, up = self.up.weight.chunk(2)
        return swiglu(x, gate, up, self.down.weight)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        B, N, D = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)  # (B, heads, N, d)
        return self.query_norm(q), self.key_norm(k), v.float()


class DiT(nn.Module):
    """A stack of blocks that reads the context once and the actions as often as wanted."""

    def __init__(self, cfg: DiTConfig):
        super().__init__()
        self.time = TimeEmbedding(cfg.time_width)
        self.blocks = nn.ModuleList(DiTBlock(cfg) for _ in range(cfg.layers))
        init_weights(self)

    def context(self, x: Tensor) -> list[KeyValue]:
        """Clean tokens x (B, N, D) -> keys and values of every layer."""
        c = self.time(x.new_ones(1, 1))
        *blocks, last = (cast(DiTBlock, block) for block in self.blocks)
        cache = []
        for block in blocks:
            x, key_value = block(x, c)
            cache.append(key_value)
        return [*cache, last.key_value(x, c)]  # what the last block would make of x, nobody reads

    def actions(self, x: Tensor, c: Tensor, cache: list[KeyValue], mask: Tensor | None = None) -> Tensor:
        """Action tokens x (B, N, D) with embedded times c (B, N or 1, width) over a cached context -> (B, N, D)."""
        for block, past in zip(self.blocks, cache, strict=True):
            x, _ = block(x, c, past, mask)
        return x


def init_weights(model: nn.Module) -> None:
    """Every initial value of a DiT in one place.

    | parameter                | value                                                                   |
    |--------------------------|-------------------------------------------------------------------------|
    | linear weights           | N(0, 0.02)                                                              |
    | modulation weight        | 0: every time starts alike                                              |
    | modulation bias          | 0 for the scales, 0.5 for the gates, so that layers act from the start  |
    | norms                    | 1                                                                       |
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, DiTBlock):
            nn.init.zeros_(module.modulation.weight)
            D = module.modulation.out_features // 4
            with torch.no_grad():
                module.modulation.bias[D : 2 * D] = 0.5
                module.modulation.bias[3 * D :] = 0.5
