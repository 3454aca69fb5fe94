"""Steering: a small network that chooses the noise of the frozen flow, where imitation draws it at random.

    w = tanh(MLP(standardised features)) (A,);    noise = BOUND * w p (H, A), p_h ~ exp(-h / FADE), |p| = 1
    chunk = F(z, g*, l, noise)

Diffusion steering by reinforcement learning (DSRL, arXiv 2506.15799): every noise gives a chunk that demonstrations
made likely, so that what is learned stays near imitation and is quickly found. `policy/rl/dsrl.py` trains it; the
layout of the network is that of stable-baselines3's actor, whose weights it takes.

Notable choices
- One number an action dimension, on a profile of length 1 over the chunk that is largest where the chunk is executed:
  the noise that the flow was trained with has deviation 1 along it, as along any direction. One noise for all steps, as
  DSRL has it, is sqrt(H) times farther out; a second, slower profile moves the steps that run in the same way.
- What is chosen holds for a whole attempt: the noise of one look moves the hand by millimetres, which the next look
  takes back; held over three looks it moves the hand by 15 mm, and an episode has few decisions to learn from.
- Features are what the controller acts on (policy/situation.py), in few numbers (policy/standardise.py).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from policy.standardise import Standardise

BOUND = 2.0  # largest coefficient of the noise; noise of all steps has deviation 1
COMPONENTS = 8  # of what is not plain: enough to tell tasks apart, too few to know layouts by heart
FADE = 6.0  # control steps over which the profile falls to a third


@dataclass(frozen=True)
class SteeringConfig:
    features: int  # F, length of `Situation.features`
    plain: int  # the first of them, see there
    chunk: int  # H
    action_dim: int  # A
    hold: int  # looks that a choice lasts
    hidden: tuple[int, ...] = (256, 256)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "SteeringConfig":
        return cls(**raw | {"hidden": tuple(raw["hidden"])})


class Steering(nn.Module):
    def __init__(self, cfg: SteeringConfig):
        super().__init__()
        self.cfg = cfg
        self.standardise = Standardise(cfg.features, cfg.plain, COMPONENTS)  # by the experience of the warm-up
        widths = (self.standardise.size, *cfg.hidden)
        layers = [part for i, o in zip(widths, widths[1:], strict=False) for part in (nn.Linear(i, o), nn.ReLU())]
        self.latent_pi = nn.Sequential(*layers)
        self.mu = nn.Linear(widths[-1], cfg.action_dim)

    def forward(self, features: Tensor) -> Tensor:
        """features (B, F) -> noise (B, 1, H, A)."""
        return spread(self.mu(self.latent_pi(self.standardise(features))).tanh(), self.cfg.chunk)


def spread(chosen: Tensor, chunk: int) -> Tensor:
    """(B, A) in [-1, 1] -> noise of a whole chunk (B, 1, H, A)."""
    return BOUND * chosen[:, None, None] * profile(chunk).to(chosen).unsqueeze(-1)


def profile(chunk: int) -> Tensor:
    """(H,), of length 1."""
    falling = (-torch.arange(chunk) / FADE).exp()
    return falling / falling.norm()
