"""What one call of a stack tells every layer about its tokens."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scope:
    """N new tokens after `past` cached ones. Attention follows `mask`. Recurrent layers are causal and follow `real`.

    Example: two cached tokens, three new ones, no mask given: positions (2, 3, 4), and `visible` is
        1 1 1 0 0
        1 1 1 1 0
        1 1 1 1 1
    """

    positions: Tensor  # (N,) int64, of the new tokens
    past: int = 0  # tokens in the cache before this call
    mask: Tensor | None = None  # bool, broadcasts to (B, heads, N, past + N), True: row may see column; None: causal
    real: Tensor | None = None  # (B, N) bool, False: padding, which recurrent layers step over; None: all real
    ids: Tensor | None = None  # (B, N) int64, the discrete tokens' ids, -1 where a token is continuous; for Engram

    @property
    def causal(self) -> bool:
        """True if plain causal attention over new tokens alone is meant: kernels have a faster path for it."""
        return self.mask is None and self.past == 0

    @cached_property
    def visible(self) -> Tensor:
        """`mask`, built if it was left out: (N, past + N), row i sees columns up to past + i."""
        if self.mask is not None:
            return self.mask
        N, device = len(self.positions), self.positions.device
        return torch.ones(N, self.past + N, dtype=torch.bool, device=device).tril(self.past)


def scope(N: int, past: int = 0, mask: Tensor | None = None, device: torch.device | None = None) -> Scope:
    """Positions past .. past + N - 1."""
    return Scope(torch.arange(past, past + N, device=device), past, mask)
