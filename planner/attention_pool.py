"""Attention pooling: Q learned queries read a memory of any length into Q tokens.

    a = softmax(q k(m)^T / sqrt(d)),  x = W a v(m),  out = x + ffn(x)

The pooling head of Set Transformers (Lee et al. 2019, arXiv 1810.00825) without the query in the residual: what comes
out is a function of the memory alone. Left out: a norm of the memory. Callers know what theirs needs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AttentionPool(nn.Module):
    """memory (B, N, F), real (B, N) bool -> (B, Q, D). Every row needs a real token."""

    def __init__(self, queries: int, features: int, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.key_value, self.out = nn.Linear(features, 2 * width), nn.Linear(width, width)
        self.ffn = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
        )

    def forward(self, memory: Tensor, real: Tensor | None = None) -> Tensor:
        """Tokens (B, N, D) -> (B, K, D), read by K learned queries."""
        q = self.queries.expand(len(memory), -1, -1)
        k, v = self.key_value(memory).chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        mask = None if real is None else real[:, None, None]
        x = self.out(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))
        return x + self.ffn(x)
