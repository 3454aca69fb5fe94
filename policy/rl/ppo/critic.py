"""The value function of PPO: discounted rewards to come (advantages.py).

It sees what the policy sees, and what only a simulator knows: how far the task has come, how much time has passed, and
where things are. It is not there at test (asymmetric actor-critic, arXiv 1710.06542).
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from ...networks.pca_whitening import Standardise
from ..shared.episodes import PLACES, Trajectory, horizon
from ..shared.experience import Episode
from .advantages import progress, returns

TOLD = 2 + PLACES  # numbers beside the features


class Critic(nn.Module):
    """(B, TOLD + F) -> value (B,)."""

    known: Tensor  # has it learned

    def __init__(self, features: int, plain: int):
        super().__init__()
        self.standardise = Standardise(TOLD + features, TOLD + plain)  # by what it first learns from
        first, second, last = nn.Linear(self.standardise.size, 256), nn.Linear(256, 256), nn.Linear(256, 1)
        self.net = nn.Sequential(first, nn.SiLU(), nn.Dropout(0.1), second, nn.SiLU(), last)
        self.register_buffer("known", torch.tensor(False))

    def forward(self, features: Tensor) -> Tensor:
        return self.net(self.standardise(features))[:, 0]


def seen(trajectory: Trajectory) -> np.ndarray:
    """What the critic sees of every look, float32 (L, TOLD + F)."""
    arrays, limit = trajectory.arrays, horizon(trajectory.task)
    told = np.stack([arrays["look"] / limit, progress(trajectory)[:-1]], axis=1)
    return np.concatenate([told, arrays["places"], arrays["features"]], axis=1, dtype=np.float32)


def fit_critic(critic: Critic, rounds: Iterable[Episode], now: int, discount: float, updates: int) -> dict[str, float]:
    """Regression on what came of the last rounds, episodes with "seen" and "rewards", at most five times through their
    looks. Its error on the newest `now` episodes before it has learned from them."""
    parts = []
    for episode in rounds:
        looks, reward = (torch.from_numpy(episode[name]).float() for name in ("seen", "rewards"))
        parts.append((looks, returns(reward, torch.zeros(len(reward)), discount)))
    looks, came = (torch.cat(part) for part in zip(*parts, strict=True))
    new = sum(len(part) for part, _ in parts[-now:])
    if not critic.known:
        critic.standardise.fit(looks)
        critic.known.fill_(True)
    with torch.no_grad():
        error = float((critic(looks[-new:]) - came[-new:]).square().mean())
    optimizer = torch.optim.AdamW(critic.parameters(), 3e-4, weight_decay=0.1)
    critic.train()
    for _ in range(min(updates, 1 + 5 * len(looks) // 256)):
        rows = torch.randint(len(looks), (256,))
        loss = (critic(looks[rows]) - came[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    critic.eval()
    return {"value_error": error, "value_chance": float(came[-new:].var())}
