"""The value function of PPO: the expected discounted sum of rewards to come (advantages.py).

Its input is the policy's features and privileged knowledge of the simulator: the time that has passed, the progress of
the task, and the positions of objects. It is not used at test (asymmetric actor-critic, arXiv 1710.06542).
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from ...networks.pca_whitening import Standardise
from ..shared.episodes import PLACES, Trajectory, horizon
from ..shared.experience import Episode
from .advantages import progress, returns

TOLD = 2 + PLACES  # privileged inputs: time, progress and positions


class Critic(nn.Module):
    """Value function: inputs of looks (B, TOLD + F) -> value (B,)."""

    known: Tensor  # bool, whether it has been trained

    def __init__(self, features: int, plain: int):
        super().__init__()
        self.standardise = Standardise(TOLD + features, TOLD + plain)  # fitted on the first round
        first, second, last = nn.Linear(self.standardise.size, 256), nn.Linear(256, 256), nn.Linear(256, 1)
        self.net = nn.Sequential(first, nn.SiLU(), nn.Dropout(0.1), second, nn.SiLU(), last)
        self.register_buffer("known", torch.tensor(False))

    def forward(self, features: Tensor) -> Tensor:
        """features (B, TOLD + F), see `seen` -> value (B,)."""
        return self.net(self.standardise(features))[:, 0]


def seen(trajectory: Trajectory) -> np.ndarray:
    """The critic's input at every look, float32 (L, TOLD + F): time, progress, positions and features."""
    arrays, limit = trajectory.arrays, horizon(trajectory.task)
    told = np.stack([arrays["look"] / limit, progress(trajectory)[:-1]], axis=1)
    return np.concatenate([told, arrays["places"], arrays["features"]], axis=1, dtype=np.float32)


def fit_critic(critic: Critic, rounds: Iterable[Episode], now: int, discount: float, updates: int) -> dict[str, float]:
    """Trains the critic by regression on the returns of the last rounds, for at most five epochs.

    rounds: episodes with "seen" and "rewards", oldest first.
    now: number of newest episodes, on which the error is measured before the training.
    updates: updates at most.
    Returns the mean squared error on the newest episodes, and the variance of their returns for comparison.
    """
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
