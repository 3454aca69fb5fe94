"""Judgement: tells System 1 that what follows went better than expected, or worse. "good" is what it is told at test.

    context + e_good or e_bad, zero where nothing is known       v = v(none) + guidance * (v(good) - v(none))

RECAP (pi*0.6, arXiv 2511.14759) with classifier-free guidance (arXiv 2207.12598). The vectors start at zero, so that a
policy begins as what imitation left. `policy/rl/recap/update.py` trains them with the controller.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

UNKNOWN, BAD, GOOD = -1, 0, 1


@dataclass(frozen=True)
class JudgementConfig:
    """Sizes of `Judgement`."""

    width: int  # D
    guidance: float = 1.0  # 1: as told; above: away from what it would do untold
    noise: float = 1.0  # at test, deviation of the random numbers that become a chunk; while it practises: 1


class Judgement(nn.Module):
    """Tokens that tell the controller how good a chunk was (RECAP)."""

    def __init__(self, cfg: JudgementConfig):
        super().__init__()
        self.cfg = cfg
        self.vectors = nn.Parameter(torch.zeros(2, cfg.width))

    def forward(self, judged: Tensor) -> Tensor:
        """judged (B,) of UNKNOWN, BAD, GOOD -> what the controller's context adds, (B, D)."""
        known = (judged >= 0).unsqueeze(-1)
        return torch.where(known, self.vectors[judged.clamp(min=0)], 0.0)
