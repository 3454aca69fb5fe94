"""Steering: a small network that chooses the noise of the frozen flow, where imitation draws it at random.

    w = tanh(MLP((features - mean) / deviation)) (J, A);    noise = BOUND * sum over j of w_j cosine_j (H, A)
    chunk = F(z, g*, l, noise)

Diffusion steering by reinforcement learning (DSRL, arXiv 2506.15799): every noise gives a chunk that demonstrations
made likely, so that what is learned stays near imitation and is quickly found. `policy/rl/dsrl.py` trains it; the
layout of the network is that of stable-baselines3's actor, whose weights it takes.

Notable choices
- The slowest J cosines of a chunk are chosen, the others are zero: J * A numbers to learn instead of H * A. The cosines
  are orthonormal (DCT-II), so every coefficient of the noise that the flow was trained with has deviation 1, and what
  is chosen is as likely as it. One noise for all steps, as DSRL has it, is sqrt(H) times farther out.
- Features are what the controller acts on, pooled (policy/situation.py).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from policy.standardise import Standardise

# largest coefficient of the noise: what runs of a chunk then varies as it does under noise of all steps
BOUND = 2.5
MODES = 2  # J


@dataclass(frozen=True)
class SteeringConfig:
    features: int  # F, length of `Situation.pooled`
    chunk: int  # H
    action_dim: int  # A
    modes: int = MODES
    hidden: tuple[int, ...] = (256, 256, 256)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "SteeringConfig":
        return cls(**raw | {"hidden": tuple(raw["hidden"])})


class Steering(nn.Module):
    def __init__(self, cfg: SteeringConfig):
        super().__init__()
        self.cfg = cfg
        widths = (cfg.features, *cfg.hidden)
        layers = [part for i, o in zip(widths, widths[1:], strict=False) for part in (nn.Linear(i, o), nn.ReLU())]
        self.latent_pi = nn.Sequential(*layers)
        self.mu = nn.Linear(widths[-1], cfg.modes * cfg.action_dim)
        self.standardise = Standardise(cfg.features)  # by the experience that learning began with

    def forward(self, features: Tensor) -> Tensor:
        """features (B, F) -> noise (B, 1, H, A)."""
        chosen = self.mu(self.latent_pi(self.standardise(features))).tanh()
        return spread(chosen.unflatten(-1, (self.cfg.modes, self.cfg.action_dim)), self.cfg.chunk)


def spread(chosen: Tensor, chunk: int) -> Tensor:
    """(B, J, A) in [-1, 1] -> noise of a whole chunk (B, 1, H, A)."""
    basis = cosines(chosen.shape[1], chunk).to(chosen)
    return BOUND * torch.einsum("bja,jh->bha", chosen, basis).unsqueeze(1)


def cosines(modes: int, chunk: int) -> Tensor:
    """The slowest rows of the orthonormal DCT-II, (J, H)."""
    step, mode = torch.arange(chunk) + 0.5, torch.arange(modes).unsqueeze(1)
    rows = torch.cos(math.pi / chunk * mode * step) * math.sqrt(2 / chunk)
    rows[0] /= math.sqrt(2)
    return rows
