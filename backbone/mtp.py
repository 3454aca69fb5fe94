"""Multi-token prediction: small layers behind the trunk, each of which predicts one token further ahead (DeepSeek-V3).

    u^k_i = M_k [RMS_e(Emb(t_{i+k})) , RMS_h(h^{k-1}_i)]
    h^k_i = RMS(Block_k(u^k)_i), causal;  logits = Head(h^k_i) predict t_{i+k+1}    (arXiv 2412.19437, section 2.2)

Example, k = 1: from the trunk's state at t_0, which predicted t_1, and from t_1 itself, row 0 predicts t_2. Embedding
and head are the trunk's. Weights and outputs are those of transformers' `MtpLayer`.

Notable choices
- Chained states are normed ones: h^0 is what the trunk's last norm puts out, h^k is behind RMS, as transformers feeds
  them (the paper chains them before that norm, which RMS_h hides but for a gain).
- A block is a `Stack` of one layer: its last norm is the RMS above, its cache has the common interface.
Left out: blocks that share weights over the depths. Transformers' option to put h before the embedding.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from .cache import StackCache
from .norms import ZeroCentredRMSNorm
from .stack import Stack, StackConfig


class MTPLayer(nn.Module):
    """One depth of multi-token prediction (DeepSeek-V3, section 2.2)."""

    def __init__(self, block: StackConfig):
        super().__init__()
        self.enorm, self.hnorm = ZeroCentredRMSNorm(block.width), ZeroCentredRMSNorm(block.width)
        self.eh_proj = nn.Linear(2 * block.width, block.width, bias=False)  # the embedding's half comes first
        self.block = Stack(block)
        nn.init.normal_(self.eh_proj.weight, std=0.02)

    def new_cache(self) -> StackCache:
        """An empty cache, for decoding step by step."""
        return self.block.new_cache()

    def forward(self, embedded: Tensor, hidden: Tensor, cache: StackCache | None = None) -> Tensor:
        """Embeddings of the tokens k ahead and h^{k-1}, (B, N, D) each -> h^k (B, N, D)."""
        u = self.eh_proj(torch.cat([self.enorm(embedded), self.hnorm(hidden)], dim=-1))
        return self.block(u, cache=cache)


class MultiTokenPrediction(nn.Module):
    """Predicts several tokens ahead, one layer a depth."""

    def __init__(self, block: StackConfig, depth: int):
        """block: one layer, of the trunk's width."""
        super().__init__()
        self.layers = nn.ModuleList(MTPLayer(block) for _ in range(depth))

    def new_cache(self) -> list[StackCache]:
        """An empty cache, for decoding step by step."""
        return [layer.new_cache() for layer in self.each()]

    def each(self) -> list[MTPLayer]:
        return [cast(MTPLayer, layer) for layer in self.layers]

    def balance(self) -> float:
        """As `Stack.balance`."""
        return max((layer.block.balance() for layer in self.each()), default=1.0)

    def forward(self, embedded: Tensor, hidden: Tensor) -> list[Tensor]:
        """Teacher forcing. Embeddings of all tokens and the trunk's states, (B, N, D) each -> h^1, h^2, ...

        h^k is (B, N - k - 1, D): row i predicts token i + k + 1, so that the last k + 1 rows have nothing to predict.
        """
        states = []
        assert embedded.shape[1] > len(self.layers) + 1, "mtp: the text is too short for the deepest layer"
        for k, layer in enumerate(self.each(), start=1):
            rows = embedded.shape[1] - k - 1
            hidden = layer(embedded[:, k : k + rows], hidden[:, :rows])
            states.append(hidden)
        return states


class MTPDrafter:
    """Rolls multi-token prediction: depth k reads the guess of depth k - 1.

    The newest known token is t_n, so that the trunk has states up to row n - 1. Row i of depth k reads t_{i+k}:
        depth 1   row n-2: t_{n-1}   row n-1: t_n              all known; row n-1 guesses d1
        depth 2   row n-2: t_n       row n-1: d1               row n-1 guesses d2, and leaves the cache again
    So depth k keeps k - 1 rows less than the trunk, and starts one row earlier than depth k - 1 did: at `carried`.
    """

    def __init__(self, mtp: MultiTokenPrediction, embed: Callable[[Tensor], Tensor], head: Callable[[Tensor], Tensor]):
        self.layers, self.embed, self.head = mtp.each(), embed, head
        self.caches = mtp.new_cache()
        self.carried: list[Tensor] = []  # a depth: the newest state of the depth before that rests on no guess

    @torch.no_grad()
    def draft(self, hidden: Tensor, following: Tensor) -> Tensor:
        """hidden (1, M, D), following (1, M) -> (1, depth)."""
        ids, nothing = following, hidden[:, :0]
        carried, self.carried = self.carried or [nothing] * len(self.layers), [nothing]
        for k, before in enumerate(carried):
            hidden = torch.cat([before, hidden], dim=1)
            embedded = self.embed(ids[:, -hidden.shape[1] :])
            known, guessed = self._run(k, embedded, hidden)
            self.carried.append(known[:, -1:])
            hidden = torch.cat([known, guessed], dim=1)
            ids = torch.cat([ids, self.head(hidden[:, -1:]).argmax(-1)], dim=1)
        self.carried.pop()
        return ids[:, following.shape[1] :]

    def _run(self, k: int, embedded: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """States of the rows that read known tokens, and of the last k, which read guesses and leave no trace."""
        layer, cache, rows = self.layers[k], self.caches[k], hidden.shape[1]
        split = max(0, rows - k)
        known = layer(embedded[:, :split], hidden[:, :split], cache) if split else hidden[:, :0]
        if split == rows:
            return known, hidden[:, :0]
        mark = cache.snapshot()
        guessed = layer(embedded[:, split:], hidden[:, split:], cache)
        cache.roll_back(mark)
        return known, guessed
