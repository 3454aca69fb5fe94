"""Which layers System 2 thinks with. Kept apart from them, so that recipes are read without loading torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Trunk:
    """Fields as in backbone.stack.StackConfig. `mtp` is the depth of multi-token prediction on the subtask's words."""

    pattern: str = "gdn gdn gdn gated"
    ffn: str = "moe"
    streams: int = 2
    engram: tuple[int, ...] = (1,)
    mtp: int = 1


ATTENTION = Trunk("gated gated gated", streams=1, engram=(), mtp=0)  # what System 2 began with, for comparison
