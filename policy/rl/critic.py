"""The value function of PPO: discounted success to come, of what is seen and of how much time has passed."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from policy.rl.experience import Episode
from policy.standardise import Standardise


class Critic(nn.Module):
    """The share of time that has passed and what is seen, (B, 1 + F) -> value (B,)."""

    known: Tensor  # has a round been seen

    def __init__(self, features: int, plain: int):
        super().__init__()
        self.standardise = Standardise(1 + features, 1 + plain)  # by the first round
        first, second, last = nn.Linear(self.standardise.size, 256), nn.Linear(256, 256), nn.Linear(256, 1)
        self.net = nn.Sequential(first, nn.SiLU(), nn.Dropout(0.1), second, nn.SiLU(), last)
        self.register_buffer("known", torch.tensor(False))

    def forward(self, features: Tensor) -> Tensor:
        return self.net(self.standardise(features))[:, 0]


def timed(features: np.ndarray, look: np.ndarray, limit: int) -> np.ndarray:
    """features (L, F) and the control steps of the looks (L,) -> what the critic sees, float16 (L, 1 + F)."""
    return np.concatenate([(look / limit)[:, None], features], axis=1).astype(np.float16)


def fit_critic(critic: Critic, rounds: Iterable[Episode], now: int, discount: float, updates: int) -> dict[str, float]:
    """Regression on what came of the last rounds, at most three times through their looks; its error on the newest
    `now` episodes before it has learned from them."""
    parts = []
    for episode in rounds:
        ahead = torch.arange(len(episode["seen"]), 0, -1) - 1.0
        parts.append((torch.from_numpy(episode["seen"]).float(), float(episode["success"]) * discount**ahead))
    seen, returns = (torch.cat(part) for part in zip(*parts, strict=True))
    new = sum(len(part) for part, _ in parts[-now:])
    with torch.no_grad():
        error = float((critic(seen[-new:]) - returns[-new:]).square().mean())
    optimizer = torch.optim.AdamW(critic.parameters(), 3e-4, weight_decay=0.1)
    critic.train()
    for _ in range(min(updates, 1 + 3 * len(seen) // 256)):
        rows = torch.randint(len(seen), (256,))
        loss = (critic(seen[rows]) - returns[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    critic.eval()
    return {"value_error": error, "value_chance": float(returns[-new:].var())}
