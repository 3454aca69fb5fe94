"""Steering: a small network that chooses the noise of the frozen flow, where imitation draws it at random.

    w = BOUND * tanh(MLP(features)) (A,), the same for all H steps;    chunk = F(z, g*, instruction, noise = w)

Diffusion steering by reinforcement learning (DSRL, arXiv 2506.15799): every noise gives a chunk that demonstrations
made likely, so that what is learned stays near imitation and is quickly found. `policy/rl/dsrl.py` trains it; the
layout of the network is that of stable-baselines3's actor, whose weights it takes.

Notable choices
- One noise for all steps of a chunk: A numbers to learn instead of H * A, and chunks that go one way.
- Features are what the controller acts on, pooled (policy/situation.py).
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

BOUND = 1.5  # largest component of the noise, in its standard deviations (DSRL's)


@dataclass(frozen=True)
class SteeringConfig:
    features: int  # F, length of `Situation.pooled`
    chunk: int  # H
    action_dim: int  # A
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
        self.mu = nn.Linear(widths[-1], cfg.action_dim)

    def forward(self, features: Tensor) -> Tensor:
        """features (B, F) -> noise (B, 1, H, A)."""
        return spread(self.mu(self.latent_pi(features)).tanh(), self.cfg.chunk)


def spread(action: Tensor, chunk: int) -> Tensor:
    """What steering chose, (B, A) in [-1, 1] -> noise of a whole chunk (B, 1, H, A)."""
    return (BOUND * action)[:, None, None].expand(-1, 1, chunk, -1).contiguous()
