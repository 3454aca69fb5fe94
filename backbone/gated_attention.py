"""Grouped-query attention with a sigmoid output gate, query-key norm and partial rotary positions (Qwen3-Next).

Source: arXiv 2505.06708 (the gate) and transformers' `Qwen3NextAttention`, whose weights and outputs it shares. The
gate removes attention sinks and bounds activations.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from .attention import attend
from .cache import KeyValueCache
from .norms import ZeroCentredRMSNorm
from .rope import angles, rotate_halves
from .scope import Scope


@dataclass(frozen=True)
class GatedAttentionConfig:
    """Sizes of `GatedAttention`."""

    heads: int = 6
    kv_heads: int = 2
    head_width: int = 32  # d
    rope_share: float = 0.25  # share of a head's channels that carry position
    rope_base: float = 10_000.0


class GatedAttention(nn.Module):
    """Grouped-query attention whose output passes a sigmoid gate."""

    def __init__(self, width: int, cfg: GatedAttentionConfig):
        super().__init__()
        d = cfg.head_width
        self.heads, self.kv_heads, self.head_width = cfg.heads, cfg.kv_heads, d
        self.rope_channels, self.rope_base = int(d * cfg.rope_share) // 2 * 2, cfg.rope_base
        self.q_proj = nn.Linear(width, 2 * cfg.heads * d, bias=False)  # per head: query, then gate
        self.k_proj = nn.Linear(width, cfg.kv_heads * d, bias=False)
        self.v_proj = nn.Linear(width, cfg.kv_heads * d, bias=False)
        self.o_proj = nn.Linear(cfg.heads * d, width, bias=False)
        self.q_norm, self.k_norm = ZeroCentredRMSNorm(d), ZeroCentredRMSNorm(d)

    def new_cache(self) -> KeyValueCache:
        """An empty cache, for decoding step by step."""
        return KeyValueCache()

    def forward(self, x: Tensor, scope: Scope, cache: KeyValueCache | None = None) -> Tensor:
        """x (B, N, D) -> (B, N, D)."""
        B, N, _ = x.shape
        query, gate = self.q_proj(x).view(B, N, self.heads, 2 * self.head_width).chunk(2, dim=-1)
        turn = angles(scope.positions, self.rope_channels, self.rope_base)
        q = rotate_halves(self.q_norm(query).transpose(1, 2), turn)
        k = self.k_norm(self.k_proj(x).view(B, N, self.kv_heads, -1)).transpose(1, 2)
        k = rotate_halves(k, turn)
        v = self.v_proj(x).view(B, N, self.kv_heads, -1).transpose(1, 2).float()
        if cache is not None:
            k, v = cache.append(k, v)
        out = attend(q, k, v, scope)
        return self.o_proj(out.transpose(1, 2).reshape(B, N, -1) * gate.reshape(B, N, -1).sigmoid())
