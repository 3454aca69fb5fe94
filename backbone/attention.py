"""Softmax attention with rotary positions: multi-head, grouped-query and multi-query are one class (LLaMA).

    q, k, v = x Wq, x Wk, x Wv;  out = softmax(rope(q) rope(k)^T / sqrt(d)) v Wo
    kv_heads = heads: multi-head (arXiv 1706.03762). 1: multi-query (1911.02150). Between: grouped (2305.13245)

Query head h reads key head h // (heads / kv_heads). Weights and outputs are those of transformers' `LlamaAttention`.
The cache holds 2 kv_heads d floats a token. Left out: biases, dropout, query-key norm (see gated_attention.py).

Notable choice: `attend` cuts causal attention into blocks of rows, as PyTorch's CPU kernel computes a row's future up
to 512 columns and throws it away: a quarter to a third less time at 512 tokens.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cache import KeyValueCache
from .rope import angles, rotate_halves
from .scope import Scope

ROWS = 128  # of a block of causal attention on a CPU


@dataclass(frozen=True)
class AttentionConfig:
    """Sizes of `Attention`."""

    heads: int = 6
    kv_heads: int = 2  # divides `heads`
    head_width: int = 32  # d
    rope_base: float = 10_000.0


class Attention(nn.Module):
    """Multi-head attention with grouped keys and rotary positions."""

    def __init__(self, width: int, cfg: AttentionConfig):
        super().__init__()
        if cfg.heads % cfg.kv_heads:
            raise ValueError(f"attention: {cfg.heads} heads cannot share {cfg.kv_heads} key heads evenly")
        self.cfg = cfg
        self.q_proj = nn.Linear(width, cfg.heads * cfg.head_width, bias=False)
        self.k_proj = nn.Linear(width, cfg.kv_heads * cfg.head_width, bias=False)
        self.v_proj = nn.Linear(width, cfg.kv_heads * cfg.head_width, bias=False)
        self.o_proj = nn.Linear(cfg.heads * cfg.head_width, width, bias=False)

    def new_cache(self) -> KeyValueCache:
        """An empty cache, for decoding step by step."""
        return KeyValueCache()

    def forward(self, x: Tensor, scope: Scope, cache: KeyValueCache | None = None) -> Tensor:
        """x (B, N, D) -> (B, N, D)."""
        turn = angles(scope.positions, self.cfg.head_width, self.cfg.rope_base)
        q, k = rotate_halves(self._heads(self.q_proj(x)), turn), rotate_halves(self._heads(self.k_proj(x)), turn)
        v = self._heads(self.v_proj(x))
        if cache is not None:
            k, v = cache.append(k, v)
        return self.o_proj(attend(q, k, v, scope).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, N, heads d) -> (B, heads, N, d)."""
        return x.unflatten(-1, (-1, self.cfg.head_width)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, scope: Scope, scale: float | None = None) -> Tensor:
    """q (B, heads, N, d), k (B, kv_heads, N_total, d), v (B, kv_heads, N_total, dv <= d) -> (B, heads, N, dv), fp32."""
    width, N = v.shape[-1], q.shape[2]
    if width != q.shape[-1]:  # without one width for all PyTorch writes the weights out, at three times the cost
        v = F.pad(v, (0, q.shape[-1] - width))
    with torch.autocast(q.device.type, enabled=False):  # bf16 attention is slower than fp32 on CPUs
        q, k, v = q.float(), k.float(), v.float()
        if scope.mask is None and N == 1:
            out = _attend_in_a_step(q, k, v, scale)
        elif scope.causal and N > ROWS and q.device.type == "cpu":
            out = _attend_in_blocks(q, k, v, scope.visible, scale)
        else:
            out = _attend(q, k, v, None if scope.causal else scope.visible, scale, scope.causal)
    return out[..., :width]


def _attend_in_a_step(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """One token sees everything. Query heads become rows of their key head, which then is read once for all of them."""
    return _attend(q.reshape(q.shape[0], k.shape[1], -1, q.shape[-1]), k, v, None, scale).reshape(q.shape)


def _attend_in_blocks(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scale: float | None) -> Tensor:
    outputs = []
    for begin in range(0, q.shape[2], ROWS):
        end = min(begin + ROWS, q.shape[2])
        mask = visible[begin:end, :end]
        outputs.append(_attend(q[:, :, begin:end], k[:, :, :end], v[:, :, :end], mask, scale))
    return torch.cat(outputs, dim=2)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool = False) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale, enable_gqa=grouped)
