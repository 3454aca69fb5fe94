"""System 2 as a decoder of words behind a prefix that its cache holds, for backbone.speculate. One scene, B = 1."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbone.cache import StackCache
from ..backbone.mtp import MTPDrafter
from ..backbone.speculate import speculative
from .tokenizer import BOS, EOS, PAD


class Speech:
    """A `backbone.speculate.Decoder`."""

    def __init__(self, planner: Any, prefix_real: Tensor):
        """planner: a System2.
        prefix_real (1, P): which tokens of the prefix are no padding."""
        self.planner, self.prefix_real = planner, prefix_real

    def new_cache(self) -> StackCache:
        """An empty cache, for decoding step by step."""
        raise NotImplementedError("speech needs the prefix's cache")

    def step(self, ids: Tensor, cache: StackCache) -> tuple[Tensor, Tensor]:
        P, N = self.prefix_real.shape[1], ids.shape[1]
        said = cache.length - P
        before = self.prefix_real.expand(N, -1)
        own = torch.ones(N, said + N, dtype=torch.bool, device=ids.device).tril(said)
        token = self.planner.text(ids)
        hidden = self.planner.stack(token.x, torch.cat([before, own], dim=1), cache, token.real, token.ids)
        return hidden, self._logits(hidden)

    def drafter(self) -> MTPDrafter:
        """What proposes the next tokens for speculative decoding, or None."""
        return MTPDrafter(self.planner.ahead, lambda ids: self.planner.text(ids).x, self._logits)

    def _logits(self, hidden: Tensor) -> Tensor:
        """<pad> and <bos> are no words."""
        return self.planner.logits(hidden).index_fill(-1, torch.tensor([PAD, BOS], device=hidden.device), -torch.inf)


def say(planner: Any, prefix_real: Tensor, cache: StackCache) -> Tensor:
    """The subtask that greedy decoding finds behind the prefix in `cache`, in fewer calls: (1, W), padded."""
    W = planner.cfg.subtask_length
    begin = torch.full((1, 1), BOS, device=prefix_real.device)
    words, _ = speculative(Speech(planner, prefix_real), begin, W, cache, EOS)
    words = words.masked_fill(words == EOS, PAD)
    return F.pad(words, (0, W - words.shape[1]), value=PAD)
