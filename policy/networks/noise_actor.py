"""Steering: a small network that chooses the noise of the frozen flow, where imitation draws it at random.

    w ~ tanh(N(mean, deviation)) (A,), of MLP(standardised features)
    chunk = F(z, g*, l, noise),    noise_h = BOUND * w for all steps h of the chunk

Diffusion steering by reinforcement learning (DSRL, arXiv 2506.15799): noise of bounded size gives a chunk near those
of the demonstrations, so that what is learned stays near imitation and is quickly found. `policy/rl/dsrl/dsrl.py`
trains it. The layout of the network is that of stable-baselines3's actor, whose weights it takes.

Notable choices
- One noise for all steps of a chunk, as DSRL has it. It is no likely draw, as random noise changes from step to step,
  and that is what moves the hand.
- What is chosen holds for a whole attempt: the noise of one look moves the hand by millimetres, which the next look
  takes back, and an episode has few decisions to learn from.
- It draws at test too, as it did when it learned what comes of it. `--runtime.noise 0` takes the mean.
- Features are what the controller acts on (policy/networks/policy_state.py), in few numbers
  (policy/networks/pca_whitening.py).
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .pca_whitening import Standardise

BOUND = 1.5  # largest noise, in deviations of that of training
COMPONENTS = 8  # of what is not plain: enough to tell tasks apart, too few to know layouts by heart
LOG_STD = (-20.0, 2.0)  # as stable-baselines3's actor bounds it


@dataclass(frozen=True)
class SteeringConfig:
    """Sizes of `Steering`."""

    features: int  # F, length of `Situation.features`
    plain: int  # the first of them, see there
    chunk: int  # H
    action_dim: int  # A
    hold: int  # looks that a choice lasts
    hidden: tuple[int, ...] = (256, 256)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "SteeringConfig":
        """From JSON. An error of one line where it is damaged."""
        return cls(**raw | {"hidden": tuple(raw["hidden"])})


class Steering(nn.Module):
    """The actor that chooses the initial noise of the flow (DSRL)."""

    def __init__(self, cfg: SteeringConfig):
        super().__init__()
        self.cfg = cfg
        self.standardise = Standardise(cfg.features, cfg.plain, COMPONENTS)  # by the experience of the warm-up
        widths = (self.standardise.size, *cfg.hidden)
        layers = [part for i, o in zip(widths, widths[1:], strict=False) for part in (nn.Linear(i, o), nn.ReLU())]
        self.latent_pi = nn.Sequential(*layers)
        self.mu, self.log_std = (nn.Linear(widths[-1], cfg.action_dim) for _ in range(2))

    def forward(self, features: Tensor, white: Tensor) -> Tensor:
        """features (B, F), white noise (B, A), 0 for the mean -> noise (B, 1, H, A)."""
        hidden = self.latent_pi(self.standardise(features))
        deviation = self.log_std(hidden).clamp(*LOG_STD).exp()
        return spread((self.mu(hidden) + deviation * white).tanh(), self.cfg.chunk)


def spread(chosen: Tensor, chunk: int) -> Tensor:
    """(B, A) in [-1, 1] -> noise of a whole chunk (B, 1, H, A)."""
    return BOUND * chosen[:, None, None].expand(-1, 1, chunk, -1)
