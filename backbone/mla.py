"""Multi-head latent attention: keys and values of all heads come from one small latent vector a token (DeepSeek-V3).

    query latent c = rms(x Wqa);  (qn | qr) = c Wqb per head;  (latent | kr) = x Wkva;  latent = rms(latent)
    (kn | v) = latent Wkvb per head;  logits = (qn kn + rope(qr) rope(kr)) / sqrt(dn + dr);  out = softmax(logits) v Wo

kr is one key that all heads share. Sources: arXiv 2405.04434, 2412.19437. Weights and outputs are those of
transformers' `DeepseekV3Attention`. Two ways to the same numbers, chosen by their cost:

    expanded: keys and values of every token are built from the latents: training and prefill
    absorbed: Wkvb moves into the query and the output, so that attention runs on the cached rows themselves: one key
              head of width r + dr, whose first r channels are the value as well. A step expands no history.

The cache holds a row (latent | rope key) of r + dr floats a token, after norm and rotation. Left out: the variant with
no query latent.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .attention import attend
from .cache import TokenCache
from .norms import RMSNorm
from .rope import Angles, angles, rotate_pairs
from .scope import Scope
from .yarn import Yarn


@dataclass(frozen=True)
class MLAConfig:
    """Sizes of `MLA`."""

    heads: int = 6
    query_rank: int = 96  # width of the query latent, about D / 2
    latent: int = 48  # r, width of the latent that keys and values come from, about D / 4
    plain_width: int = 32  # dn, channels of a head's query and key without position
    rope_width: int = 16  # dr, channels with position; even
    value_width: int = 32  # dv, at most dn + dr
    rope_base: float = 10_000.0
    yarn: Yarn | None = None  # for contexts longer than those trained on

    @property
    def head_width(self) -> int:
        """Width of a query and a key: the plain and the rotated channels."""
        return self.plain_width + self.rope_width

    @property
    def scale(self) -> float:
        """Of the logits. That of the expanded head, in either form."""
        return self.head_width**-0.5 * (1.0 if self.yarn is None else self.yarn.logit_scale)


class LatentAttention(nn.Module):
    """Multi-head latent attention (DeepSeek-V2): keys and values are read from one small latent."""

    def __init__(self, width: int, cfg: MLAConfig):
        super().__init__()
        self.cfg = cfg
        self.q_a_proj = nn.Linear(width, cfg.query_rank, bias=False)
        self.q_a_layernorm = RMSNorm(cfg.query_rank)
        self.q_b_proj = nn.Linear(cfg.query_rank, cfg.heads * cfg.head_width, bias=False)  # per head: plain, rope
        self.kv_a_proj_with_mqa = nn.Linear(width, cfg.latent + cfg.rope_width, bias=False)
        self.kv_a_layernorm = RMSNorm(cfg.latent)
        # per head: plain key, value
        self.kv_b_proj = nn.Linear(cfg.latent, cfg.heads * (cfg.plain_width + cfg.value_width), bias=False)
        self.o_proj = nn.Linear(cfg.heads * cfg.value_width, width, bias=False)

    def new_cache(self) -> TokenCache:
        """An empty cache, for decoding step by step."""
        return TokenCache(1)

    def forward(self, x: Tensor, scope: Scope, cache: TokenCache | None = None) -> Tensor:
        """x (B, N, D) -> (B, N, D)."""
        turn = self.turn(scope)
        q, rows = self.queries(self.query_latent(x), turn), self.rows(x, turn)
        if cache is not None:
            (rows,) = cache.append(rows)
        return self.output(self.attend_to(q, rows, scope))

    def turn(self, scope: Scope) -> Angles:
        return angles(scope.positions, self.cfg.rope_width, self.cfg.rope_base, self.cfg.yarn)

    def query_latent(self, x: Tensor) -> Tensor:
        """x (B, N, D) -> (B, N, query_rank)."""
        return self.q_a_layernorm(self.q_a_proj(x))

    def queries(self, query_latent: Tensor, turn: Angles) -> Tensor:
        """(B, N, query_rank) -> (B, heads, N, dn + dr)."""
        q = self.q_b_proj(query_latent).unflatten(-1, (self.cfg.heads, -1)).transpose(1, 2)
        plain, turned = q.split([self.cfg.plain_width, self.cfg.rope_width], dim=-1)
        return torch.cat([plain, rotate_pairs(turned, turn)], dim=-1)

    def rows(self, x: Tensor, turn: Angles) -> Tensor:
        """x (B, N, D) -> what is remembered of it, (B, N, r + dr): latent, then rope key."""
        latent, key = self.kv_a_proj_with_mqa(x).split([self.cfg.latent, self.cfg.rope_width], dim=-1)
        return torch.cat([self.kv_a_layernorm(latent), rotate_pairs(key[:, None], turn)[:, 0]], dim=-1)

    def attend_to(self, q: Tensor, rows: Tensor, scope: Scope) -> Tensor:
        """q (B, heads, N, dn + dr), rows (B, N_total, r + dr) -> (B, heads, N, dv)."""
        if not self.absorbs(q.shape[2], rows.shape[1]):
            return attend(q, *self.expand(rows), scope, self.cfg.scale)
        memory = rows[:, None]
        return self.values(attend(self.absorb(q), memory, memory, scope, self.cfg.scale)[..., : self.cfg.latent])

    def absorbs(self, N: int, total: int) -> bool:
        """Whether N rows over `total` columns cost fewer multiplications absorbed than expanded."""
        c = self.cfg
        one_expansion = c.latent * (c.plain_width + c.value_width)
        expanded = total * one_expansion + 2 * N * total * c.head_width
        return N * one_expansion + 2 * N * total * (c.latent + c.rope_width) < expanded

    def expand(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """rows (B, N_total, r + dr) -> keys (B, heads, N_total, dn + dr), values (B, heads, N_total, dv)."""
        latent, key = rows.split([self.cfg.latent, self.cfg.rope_width], dim=-1)
        both = self.kv_b_proj(latent).unflatten(-1, (self.cfg.heads, -1)).transpose(1, 2)
        plain, v = both.split([self.cfg.plain_width, self.cfg.value_width], dim=-1)
        return torch.cat([plain, key[:, None].expand(-1, self.cfg.heads, -1, -1)], dim=-1), v

    def absorb(self, q: Tensor) -> Tensor:
        """q (B, heads, N, dn + dr) -> queries to rows, (B, heads, N, r + dr)."""
        plain, turned = q.split([self.cfg.plain_width, self.cfg.rope_width], dim=-1)
        return torch.cat([plain @ self._weights()[0], turned], dim=-1)

    def values(self, mixed: Tensor) -> Tensor:
        """Mixed latents (B, heads, N, r) -> (B, heads, N, dv)."""
        return mixed @ self._weights()[1].transpose(1, 2)

    def output(self, mixed: Tensor) -> Tensor:
        """(B, heads, N, dv) -> (B, N, D)."""
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def _weights(self) -> tuple[Tensor, ...]:
        """Wkvb per head: of the plain key (heads, dn, r), of the value (heads, dv, r)."""
        weight = self.kv_b_proj.weight.unflatten(0, (self.cfg.heads, -1))
        return weight.split([self.cfg.plain_width, self.cfg.value_width], dim=1)
