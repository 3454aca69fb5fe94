"""The lightning indexer of DeepSeek-V3.2: a cheap score of every earlier token, and the k best of each row.

    q = c Wq per head (c: the query latent);  key = LayerNorm(x Wk), one for all heads;  w = x Ww / sqrt(heads width)
    I[t, s] = sum over heads of w[t, head] relu(rope(q[t, head]) rope(key[s])), -inf where t may not see s

Source: arXiv 2512.02556 and transformers' `DeepseekV32Indexer`. Rotation turns the first channels, paired by halves
(latent attention pairs neighbours). Scores are fp32.

Notable choices: equal scores are told apart by recency, so that a row chooses the same columns in a step as in a
prefill: where no head fires a score is exactly zero, often with few heads and seldom with 8 or more. Rows are scored in
blocks, causal ones without their future. Left out: the Hadamard rotation and FP8, which serve a GPU kernel.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rope import Angles, rotate_halves
from .scope import Scope

ROWS = 64  # of a block: its products, (rows heads, columns), stay in a core's own cache


@dataclass(frozen=True)
class IndexerConfig:
    """Sizes of `Indexer`."""

    heads: int = 8  # fewer than 8 leave many equal scores
    width: int = 32  # of an index query and key, at least the channels that attention rotates


class Indexer(nn.Module):
    """Scores the columns that a row may attend to."""

    def __init__(self, width: int, query_rank: int, cfg: IndexerConfig):
        super().__init__()
        self.cfg = cfg
        self.wq_b = nn.Linear(query_rank, cfg.heads * cfg.width, bias=False)
        self.wk = nn.Linear(width, cfg.width, bias=False)
        self.k_norm = nn.LayerNorm(cfg.width, eps=1e-6)
        self.weights_proj = nn.Linear(width, cfg.heads, bias=False)

    def keys(self, x: Tensor, turn: Angles) -> Tensor:
        """x (B, N, D) -> (B, N, width) in fp32."""
        return rotate_halves(self.k_norm(self.wk(x))[:, None], turn)[:, 0]

    def scores(self, x: Tensor, query_latent: Tensor, keys: Tensor, turn: Angles, scope: Scope) -> Tensor:
        """x (B, N, D), query_latent (B, N, query_rank), keys (B, N_total, width) -> (B, N, N_total)."""
        q = self.wq_b(query_latent).unflatten(-1, (self.cfg.heads, -1)).transpose(1, 2)
        q = rotate_halves(q, turn).transpose(1, 2)  # (B, N, heads, width)
        with torch.autocast(x.device.type, enabled=False):
            weight = self.weights_proj(x.float()) * (self.cfg.heads * self.cfg.width) ** -0.5
            scores = _scores_in_blocks(q, weight, keys.float(), scope)
        return scores.masked_fill(~columns(scope), -torch.inf)


def _scores_in_blocks(q: Tensor, weight: Tensor, keys: Tensor, scope: Scope) -> Tensor:
    (N, total), blocks = (q.shape[1], keys.shape[1]), []
    for begin in range(0, N, ROWS):
        end = min(begin + ROWS, N)
        seen = total if scope.mask is not None else scope.past + end
        products = (q[:, begin:end].flatten(1, 2) @ keys[:, :seen].mT).relu().unflatten(1, (end - begin, -1))
        scores = (weight[:, begin:end, None] @ products)[:, :, 0]  # (B, rows, seen)
        blocks.append(F.pad(scores, (0, total - seen)))
    return torch.cat(blocks, dim=1)


def columns(scope: Scope) -> Tensor:
    """What a row may see, (N, N_total) or (B, N, N_total): one choice serves all heads."""
    visible = scope.visible
    if visible.dim() < 4:
        return visible
    if visible.shape[1] != 1:
        raise ValueError(f"indexer: the mask differs between {visible.shape[1]} heads, a row's choice does not")
    return visible[:, 0]


def choose(scores: Tensor, k: int) -> Tensor:
    """scores (B, N, N_total) -> bool, the k best of each row, later ones among equals. Fewer where fewer are visible.

    Example: k = 2, scores (5, 1, 1, -inf) -> the first and the third column.
    """
    worst = scores.topk(min(k, scores.shape[-1]), sorted=False).values.amin(-1, keepdim=True)
    chosen = (scores >= worst) & (scores > -torch.inf)
    surplus = chosen.sum(-1, keepdim=True) - k
    tied = surplus[..., 0] > 0  # few rows, so that counting along them costs nothing
    equal = scores[tied] == worst[tied]
    chosen[tied] &= ~(equal & (equal.cumsum(-1) <= surplus[tied]))
    return chosen
