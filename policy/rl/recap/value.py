"""How far from success is this? A distribution over returns, learned from what came of every frame.

    return R_t = -(T - t) / horizon where the episode succeeded after T steps, -1 where it failed    (pi*0.6's, scaled)
    V(s): the mean of all bins but failure's, that is how long success takes from here if it comes
    advantage of the next n steps of a success  A_t = -n / horizon + V(s_{t+n}) - V(s_t);  V is 0 at success

Notable choices
- Cross-entropy over bins, two-hot so that the mean stays exact: outcomes have two peaks, soon or never, and regressing
  their mean is slow.
- Failure's bin is learned, and left out when V is read: what failed is bad without being asked. In the mean of all bins
  the step at which success became certain outweighs every step that was saved, and nothing tells fast from slow.
- Several value functions, each for the episodes that the others learned from: who has seen how an episode ended expects
  it, and finds no advantage anywhere.
- n steps and not the whole return: a chunk is judged by what it changed, not by what luck made of it later.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

LOW, HIGH = -1.0, 0.0  # of returns
FOLDS = 4


@dataclass(frozen=True)
class ValueConfig:
    features: int  # F
    hidden: int = 256
    bins: int = 41
    dropout: float = 0.2


class Value(nn.Module):
    centres: Tensor

    def __init__(self, cfg: ValueConfig):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(cfg.features, cfg.hidden), nn.SiLU(), nn.Dropout(cfg.dropout),
            nn.Linear(cfg.hidden, cfg.hidden), nn.SiLU(), nn.Linear(cfg.hidden, cfg.bins),
        )  # fmt: skip
        self.register_buffer("centres", torch.linspace(LOW, HIGH, cfg.bins), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """features (B, F) -> mean return of those that succeed (B,)."""
        return self.net(features)[:, 1:].softmax(-1) @ self.centres[1:]

    def loss(self, features: Tensor, returns: Tensor) -> Tensor:
        """returns (B,) in [LOW, HIGH]."""
        return -(two_hot(returns, self.centres) * self.net(features).log_softmax(-1)).sum(-1).mean()


def two_hot(values: Tensor, centres: Tensor) -> Tensor:
    """(B,) -> (B, bins) weights of the two nearest centres, whose mean is the value."""
    width = centres[1] - centres[0]
    return (1 - (values.clamp(LOW, HIGH).unsqueeze(-1) - centres).abs() / width).clamp(min=0)


def fit_value(features: Tensor, returns: Tensor, steps: int, seed: int, batch: int = 256) -> Value:
    """A fresh value function on all frames, features (F, ...) and returns (F,)."""
    torch.manual_seed(seed)
    value = Value(ValueConfig(features.shape[-1]))
    optimizer = torch.optim.AdamW(value.parameters(), 1e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(features), (batch,))
        loss = value.loss(features[rows], returns[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return value.eval().requires_grad_(False)


def held_out_values(features: Tensor, returns: Tensor, episode: Tensor, steps: int, seed: int) -> Tensor:
    """(F,): the value of every frame, by a function that did not learn from its `episode` (F,)."""
    value = torch.zeros(len(features))
    order = torch.randperm(int(episode.max()) + 1, generator=torch.Generator().manual_seed(seed))
    fold = (order % FOLDS)[episode]
    for mine in (fold == number for number in range(FOLDS)):
        if mine.any():
            others = ~mine if not mine.all() else mine  # a single episode has no other
            value[mine] = fit_value(features[others], returns[others], steps, seed)(features[mine])
    return value


def returns_of(steps: Tensor, length: Tensor, success: Tensor, horizon: Tensor) -> Tensor:
    """steps (F,) of the frames in episodes of `length` (F,) that succeeded or not -> returns (F,)."""
    return torch.where(success, -(length - steps) / horizon, LOW).clamp(LOW, HIGH)
