"""A language model: embedding, stack, head, and multi-token prediction as a second loss and as a drafter.

    loss = CE(head(h_i), t_{i+1}) + weight / depth * sum_k CE(head(h^k_i), t_{i+k+1})      (DeepSeek-V3, section 2.2)

The blocks of multi-token prediction are layers like the trunk's last. speculate.py decodes. Left out: sampling.
"""

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cache import StackCache
from .mtp import MTPDrafter, MultiTokenPrediction
from .stack import Stack, StackConfig


@dataclass(frozen=True)
class LanguageModelConfig:
    """Sizes of `LanguageModel`."""

    vocabulary: int = 256  # different tokens
    stack: StackConfig = field(default_factory=StackConfig)
    mtp_depth: int = 1  # tokens predicted beyond the next one; 0: none
    mtp_weight: float = 0.3  # lambda; DeepSeek-V3 lowers it to 0.1 late in training
    tied: bool = True  # the head is the embedding


class LanguageModel(nn.Module):
    """Embedding, stack and head, with multi-token prediction."""

    def __init__(self, cfg: LanguageModelConfig):
        super().__init__()
        self.cfg, width = cfg, cfg.stack.width
        self.embedding = nn.Embedding(cfg.vocabulary, width)
        self.stack = Stack(cfg.stack)
        self.mtp = MultiTokenPrediction(last_layer(cfg.stack), cfg.mtp_depth)
        self.head = nn.Linear(width, cfg.vocabulary, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)
        if cfg.tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor, cache: StackCache | None = None) -> tuple[Tensor, Tensor]:
        """ids (B, N), after those in `cache` -> normed states (B, N, D) and logits of the next tokens (B, N, V)."""
        hidden = self.stack(self.embedding(ids), cache=cache, ids=ids)
        return hidden, self.head(hidden)

    def loss(self, ids: Tensor, counts: Tensor | None = None) -> dict[str, Tensor]:
        """ids (B, N). counts (B, N) bool: True where a token is to be predicted (no padding, no prompt). None: all.

        Returns "lm", "mtp1", ... as means over those tokens, and "total". Padding may only follow what is real.
        """
        embedded = self.embedding(ids)
        hidden = self.stack(embedded, ids=ids)
        states = [hidden[:, :-1], *self.mtp(embedded, hidden)]
        counts = torch.ones_like(ids, dtype=torch.bool) if counts is None else counts
        losses = [self._cross_entropy(h, ids[:, k:], counts[:, k:]) for k, h in enumerate(states, start=1)]
        names = ["lm", *(f"mtp{k}" for k in range(1, len(losses)))]
        further = sum(losses[1:], start=torch.zeros_like(losses[0]))
        total = losses[0] + self.cfg.mtp_weight / max(1, self.cfg.mtp_depth) * further
        return {**dict(zip(names, losses, strict=True)), "total": total}

    def _cross_entropy(self, hidden: Tensor, target: Tensor, counts: Tensor) -> Tensor:
        """0 where nothing counts, instead of the mean of nothing."""
        each = F.cross_entropy(self.head(hidden).float().flatten(0, 1), target.flatten(), reduction="none")
        return (each * counts.flatten()).sum() / counts.sum().clamp(min=1)

    # -- decoding: what speculate.py asks for ------------------------------------------------------------------------
    def new_cache(self) -> StackCache:
        """An empty cache, for decoding step by step."""
        return self.stack.new_cache()

    @torch.no_grad()
    def step(self, ids: Tensor, cache: StackCache) -> tuple[Tensor, Tensor]:
        """States and logits of the tokens after those in `cache`, which it extends."""
        return self(ids, cache)

    def drafter(self) -> MTPDrafter:
        """What proposes the next tokens for speculative decoding, or None."""
        return MTPDrafter(self.mtp, self.embedding, self.head)

    def balance(self) -> float:
        """As `Stack.balance`, the blocks of multi-token prediction included."""
        return max(self.stack.balance(), self.mtp.balance())


def last_layer(cfg: StackConfig) -> StackConfig:
    """A stack of one layer like the last one of `cfg`. An n-gram memory belongs to the trunk."""
    return replace(cfg, pattern=cfg.mixers[-1], repeats=1, ffn=cfg.ffns[-1], engram=())
