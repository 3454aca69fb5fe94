"""DeepSeek Sparse Attention: latent attention in which a row attends to the k columns its indexer scores best (V3.2).

    scores = indexer(x, c), both detached;  S_t = the k best columns that t may see;  out = latent attention over S_t

Source: arXiv 2512.02556. Weights and outputs are those of transformers' `DeepseekV32Attention`. Two ways to the same
numbers, chosen by the number of rows: a step gathers the k remembered rows and attends to them absorbed (see mla.py).
Many rows at once mask what was not chosen, as gathering k rows for each would copy more than it saves. Where all
columns fit in k nothing is scored. The cache holds a latent, a rope key and an index key a token.

The choice has no gradient: the indexer learns from `Lesson`s (see dsa_training.py), never from the task, and the trunk
never from the indexer. Masks must be the same for all heads. Left out: choices shared between layers.
"""

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .cache import TokenCache
from .indexer import Indexer, IndexerConfig, choose
from .mla import LatentAttention, MLAConfig
from .scope import Scope

ROWS = 64  # of a block of `attention_mass`


@dataclass(frozen=True)
class DSAConfig:
    """Sizes of `SparseAttention`."""

    mla: MLAConfig = field(default_factory=MLAConfig)
    indexer: IndexerConfig = field(default_factory=IndexerConfig)
    top_k: int = 64  # columns a row attends to


@dataclass(frozen=True)
class Lesson:
    """One call of one layer, for its indexer to learn from. (B, N, N_total) each."""

    scores: Tensor  # the indexer's, with their gradient; -inf where a row may not see a column
    mass: Tensor  # attention summed over heads, without gradient
    chosen: Tensor  # bool, the columns the scores select
    dense: bool  # whether attention went over all visible columns or over the chosen ones
    real: Tensor | None  # (B, N) bool, False: padding, which teaches nothing


class SparseAttention(LatentAttention):
    """Latent attention over the columns that an indexer chooses (DeepSeek-V3.2)."""

    def __init__(self, width: int, cfg: DSAConfig):
        super().__init__(width, cfg.mla)
        if cfg.indexer.width < cfg.mla.rope_width:
            raise ValueError(f"dsa: an index key of {cfg.indexer.width} cannot rotate {cfg.mla.rope_width} channels")
        self.top_k = cfg.top_k
        self.indexer = Indexer(width, cfg.mla.query_rank, cfg.indexer)
        self.dense = False  # attend to all that is visible: before and while the indexer warms up
        self.lessons: list[Lesson] | None = None  # where a call leaves its lesson

    def new_cache(self) -> TokenCache:
        """An empty cache, for decoding step by step."""
        return TokenCache(1, 1)

    def forward(self, x: Tensor, scope: Scope, cache: TokenCache | None = None) -> Tensor:
        """x (B, N, D) -> (B, N, D)."""
        turn = self.turn(scope)
        latent = self.query_latent(x)
        q, rows, keys = self.queries(latent, turn), self.rows(x, turn), self.indexer.keys(x.detach(), turn)
        if cache is not None:
            rows, keys = cache.append(rows, keys)
        if self.lessons is None and (self.dense or rows.shape[1] <= self.top_k):
            return self.output(self.attend_to(q, rows, scope))
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.lessons is not None):
            scores = self.indexer.scores(x.detach(), latent.detach(), keys, turn, scope)
        return self.output(self._attend_to_best(q, rows, scores, scope))

    def _attend_to_best(self, q: Tensor, rows: Tensor, scores: Tensor, scope: Scope) -> Tensor:
        chosen = choose(scores.detach(), self.top_k)
        seen = scope if self.dense else replace(scope, mask=chosen[:, None])
        if self.lessons is not None:
            mass = attention_mass(q, self.expand(rows)[0], seen, self.cfg.scale)
            self.lessons.append(Lesson(scores, mass, chosen, self.dense, scope.real))
        if not self.dense and self.gathers(q.shape[2], rows.shape[1]):
            return self.attend_gathered(q, rows, chosen)
        return self.attend_to(q, rows, seen)

    def gathers(self, N: int, total: int) -> bool:
        """Whether k remembered rows for each of N tokens are no more than there are."""
        return N * self.top_k <= total

    def attend_gathered(self, q: Tensor, rows: Tensor, chosen: Tensor) -> Tensor:
        """q (B, heads, N, dn + dr), rows (B, N_total, r + dr), chosen (B, N, N_total) -> (B, heads, N, dv)."""
        B, _, N, _ = q.shape
        allowed, column = chosen.byte().topk(self.top_k)  # (B, N, k); others fill up a row that sees fewer
        sample = torch.arange(B, device=rows.device)[:, None, None]
        best = rows[sample, column].flatten(0, 1)[:, None]  # (B N, 1, k, r + dr)
        with torch.autocast(q.device.type, enabled=False):
            heads = self.absorb(q).float().transpose(1, 2).flatten(0, 1)[:, None]  # (B N, 1, heads, r + dr)
            mask = allowed.bool().flatten(0, 1)[:, None, None]
            mixed = F.scaled_dot_product_attention(heads, best, best, mask, scale=self.cfg.scale)
        return self.values(mixed[:, 0, :, : self.cfg.latent].unflatten(0, (B, N)).transpose(1, 2))


@torch.no_grad()
def attention_mass(q: Tensor, k: Tensor, scope: Scope, scale: float) -> Tensor:
    """q (B, heads, N, d), k (B, heads, N_total, d) -> attention weights summed over heads, (B, N, N_total), in fp32."""
    visible, blocks = scope.visible, []
    with torch.autocast(q.device.type, enabled=False):
        q, k = q.float() * scale, k.float()
        for begin in range(0, q.shape[2], ROWS):
            logits = q[:, :, begin : begin + ROWS] @ k.mT
            logits.masked_fill_(~visible[..., begin : begin + ROWS, :], -torch.inf)
            blocks.append(logits.softmax(-1).sum(1))
    return torch.cat(blocks, dim=1)
