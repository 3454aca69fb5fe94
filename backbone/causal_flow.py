"""Vision tokens in causal flow: learned queries read the patches of an image one after another (DeepSeek-OCR 2).

Patches see all patches and no query. Query i sees all patches and queries up to i, so the scene tokens that come out
have an order, as words do:

                   patches m    queries n
        patches    1            0
        queries    1            lower triangle

Source: arXiv 2601.20552 and transformers' `DeepseekOcr2VisionEncoder`: Qwen2's blocks (biases on query, key and value,
RMS norms, SwiGLU) with rotary positions 0 .. m + n - 1. Notable choices: as patches are blind to queries, they go first
and leave keys and values behind (`remember`), which any number of queries may `read`, all at once or one by one. In the
last layer patches only leave those. Left out: the SAM stem, banks of queries for other resolutions, several crops.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .feed_forward import SwiGLU
from .norms import RMSNorm
from .rope import rotate
from .scope import scope

KeysValues = tuple[Tensor, Tensor]  # (B, kv_heads, N, d) each


@dataclass(frozen=True)
class CausalFlowConfig:
    """Sizes of `CausalFlow`."""

    layers: int = 2
    heads: int = 4
    kv_heads: int = 4  # keys and values of a head serve heads / kv_heads queries
    ffn_width: int = 512  # hidden width of the feed-forward layers
    queries: int = 16  # n, scene tokens
    rope_base: float = 10_000.0


class CausalFlow(nn.Module):
    """Queries that read an image's tokens in a learned causal order (DeepSeek-OCR 2)."""

    def __init__(self, width: int, cfg: CausalFlowConfig):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(cfg.queries, width) * 0.02)
        self.layers = nn.ModuleList(FlowLayer(width, cfg) for _ in range(cfg.layers))
        self.norm = RMSNorm(width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, patches: Tensor) -> Tensor:
        """patches (B, m, D) -> scene tokens (B, n, D)."""
        return self.read(self.remember(patches), 0, len(self.queries))[0]

    def remember(self, patches: Tensor) -> list[KeysValues]:
        """patches (B, m, D) -> every layer's keys and values."""
        memory, x, positions = [], patches, torch.arange(patches.shape[1], device=patches.device)
        for i, layer in enumerate(self._layers()):
            normed = layer.mixer_norm(x)
            memory.append(layer.keys_values(normed, positions))
            if i + 1 < len(self.layers):
                x = layer.update(x, normed, positions, memory[-1], None)
        return memory

    def read(self, memory: list[KeysValues], first: int, count: int) -> tuple[Tensor, list[KeysValues]]:
        """Queries first .. first + count - 1, after all before them -> tokens (B, count, D), memory that holds them."""
        B, _, past, _ = memory[0][0].shape
        x = self.queries[first : first + count].expand(B, -1, -1)
        visible, positions = None, torch.arange(past, past + count, device=x.device)
        if count > 1:
            visible = scope(count, past, device=x.device).visible
        grown = []
        for layer, (past_k, past_v) in zip(self._layers(), memory, strict=True):
            normed = layer.mixer_norm(x)
            k, v = layer.keys_values(normed, positions)
            grown.append((torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)))
            x = layer.update(x, normed, positions, grown[-1], visible)
        return self.norm(x), grown

    def _layers(self) -> Iterable["FlowLayer"]:
        return cast(Iterable[FlowLayer], self.layers)


class FlowLayer(nn.Module):
    """Qwen2's decoder layer, in two halves: what a token leaves behind, and what it makes of what it sees."""

    def __init__(self, width: int, cfg: CausalFlowConfig):
        super().__init__()
        d = width // cfg.heads
        self.head_width, self.rope_base, self.shared = d, cfg.rope_base, cfg.heads != cfg.kv_heads
        self.mixer_norm, self.ffn_norm = RMSNorm(width), RMSNorm(width)
        self.q_proj = nn.Linear(width, cfg.heads * d)
        self.k_proj, self.v_proj = nn.Linear(width, cfg.kv_heads * d), nn.Linear(width, cfg.kv_heads * d)
        self.o_proj = nn.Linear(cfg.heads * d, width, bias=False)
        self.ffn = SwiGLU(width, cfg.ffn_width)

    def keys_values(self, normed: Tensor, positions: Tensor) -> KeysValues:
        """normed (B, N, D), positions (N,)."""
        k = rotate(self._heads(self.k_proj(normed)), positions, self.head_width, self.rope_base)
        return k, self._heads(self.v_proj(normed)).to(k.dtype)

    def update(self, x: Tensor, normed: Tensor, positions: Tensor, seen: KeysValues, mask: Tensor | None) -> Tensor:
        """x and normed (B, N, D). mask (N, keys) bool or None: everything seen is visible -> (B, N, D)."""
        q = rotate(self._heads(self.q_proj(normed)), positions, self.head_width, self.rope_base)
        with torch.autocast(q.device.type, enabled=False):  # bf16 attention is slower than fp32 on CPUs
            out = F.scaled_dot_product_attention(q, *seen, attn_mask=mask, enable_gqa=self.shared)
        x = x + self.o_proj(out.transpose(1, 2).flatten(2))
        return x + self.ffn(self.ffn_norm(x))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)
