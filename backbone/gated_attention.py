"""Grouped-query attention with a sigmoid output gate, query-key norm and partial rotary positions (Qwen3-Next).

Source: arXiv 2505.06708 (the gate) and transformers' `Qwen3NextAttention`, whose weights and outputs it shares. The
gate removes attention sinks and bounds activations.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone.cache import KeyValueCache
from backbone.config import StackConfig
from backbone.norms import ZeroCentredRMSNorm
from backbone.rope import rotate


class GatedAttention(nn.Module):
    def __init__(self, cfg: StackConfig):
        super().__init__()
        D, d = cfg.width, cfg.head_width
        self.heads, self.kv_heads, self.head_width = cfg.heads, cfg.kv_heads, d
        self.rope_channels = int(d * cfg.rope_share) // 2 * 2
        self.q_proj = nn.Linear(D, 2 * cfg.heads * d, bias=False)  # per head: query, then gate
        self.k_proj = nn.Linear(D, cfg.kv_heads * d, bias=False)
        self.v_proj = nn.Linear(D, cfg.kv_heads * d, bias=False)
        self.o_proj = nn.Linear(cfg.heads * d, D, bias=False)
        self.q_norm, self.k_norm = ZeroCentredRMSNorm(d), ZeroCentredRMSNorm(d)

    def new_cache(self) -> KeyValueCache:
        return KeyValueCache()

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        """x (B, N, D); mask bool, broadcast to (B, heads, N, N_total), True where a row may see a column; None: all."""
        B, N, _ = x.shape
        query, gate = self.q_proj(x).view(B, N, self.heads, 2 * self.head_width).chunk(2, dim=-1)
        q = rotate(self.q_norm(query).transpose(1, 2), positions, self.rope_channels)
        k = self.k_norm(self.k_proj(x).view(B, N, self.kv_heads, -1)).transpose(1, 2)
        k = rotate(k, positions, self.rope_channels)
        v = self.v_proj(x).view(B, N, self.kv_heads, -1).transpose(1, 2).float()
        if cache is not None:
            k, v = cache.append(k, v)
        with torch.autocast(x.device.type, enabled=False):  # bf16 attention is slower than fp32 on CPUs
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=self.heads != self.kv_heads)
        return self.o_proj(out.transpose(1, 2).reshape(B, N, -1) * gate.reshape(B, N, -1).sigmoid())
