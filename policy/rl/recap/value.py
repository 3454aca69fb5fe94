"""The value function of RECAP: a distribution over returns, trained on the outcome of every frame's episode.

    return R_t = -(T - t) / horizon where the episode succeeded after T steps, -1 where it failed    (pi*0.6's, scaled)
    V(s): mean over all bins but that of failure, the time until success on condition that it comes
    advantage of the next n steps of a success  A_t = -n / horizon + V(s_{t+n}) - V(s_t), with V = 0 at success

Notable choices
- The loss is cross-entropy over bins. Targets are two-hot, so that their mean stays exact. Outcomes have two peaks,
  soon or never, and regression of their mean is slow.
- The bin of failure is trained, but left out of V, because failed episodes are labelled bad anyway. In the mean of all
  bins, the step at which success became certain outweighs every step that was saved. Fast and slow chunks would then
  get the same label.
- There are several value functions. Each is applied to episodes outside of its training. A network trained on an
  episode predicts its outcome, and all advantages vanish.
- The advantage spans n steps instead of the whole return. A chunk is then judged by its own effect, without the luck
  of later steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

LOW, HIGH = -1.0, 0.0  # range of returns
FOLDS = 4  # value functions, each for a quarter of the episodes


@dataclass(frozen=True)
class ValueConfig:
    """Sizes of `Value`."""

    features: int  # F
    hidden: int = 256  # width of the hidden layers
    bins: int = 41  # bins of the returns from LOW to HIGH
    dropout: float = 0.2  # probability, after the first hidden layer


class Value(nn.Module):
    """Network for the distribution of returns over bins, given the features of a look."""

    centres: Tensor  # (bins,) returns

    def __init__(self, cfg: ValueConfig):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(cfg.features, cfg.hidden), nn.SiLU(), nn.Dropout(cfg.dropout),
            nn.Linear(cfg.hidden, cfg.hidden), nn.SiLU(), nn.Linear(cfg.hidden, cfg.bins),
        )  # fmt: skip
        self.register_buffer("centres", torch.linspace(LOW, HIGH, cfg.bins), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """features (B, F) -> expected return on condition of success (B,), in [LOW, HIGH]."""
        return self.net(features)[:, 1:].softmax(-1) @ self.centres[1:]

    def loss(self, features: Tensor, returns: Tensor) -> Tensor:
        """Mean cross-entropy of the predicted bins for features (B, F), given returns (B,) in [LOW, HIGH]."""
        return -(two_hot(returns, self.centres) * self.net(features).log_softmax(-1)).sum(-1).mean()


def two_hot(values: Tensor, centres: Tensor) -> Tensor:
    """values (B,) -> weights (B, bins) of the two nearest centres, with which the mean of the centres is the value."""
    width = centres[1] - centres[0]
    return (1 - (values.clamp(LOW, HIGH).unsqueeze(-1) - centres).abs() / width).clamp(min=0)


def fit_value(features: Tensor, returns: Tensor, steps: int, seed: int, batch: int = 256) -> Value:
    """Trains a new value function on all frames, given features (F, number of features) and returns (F,)."""
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
    """The value of every frame (F,), by a value function that was not trained on its episode.

    episode: number of every frame's episode (F,).
    With a single episode there is no other one, and its value function is trained on it.
    """
    value = torch.zeros(len(features))
    order = torch.randperm(int(episode.max()) + 1, generator=torch.Generator().manual_seed(seed))
    fold = (order % FOLDS)[episode]
    for mine in (fold == number for number in range(FOLDS)):
        if mine.any():
            others = ~mine if not mine.all() else mine  # a single episode has no other
            value[mine] = fit_value(features[others], returns[others], steps, seed)(features[mine])
    return value


def returns_of(steps: Tensor, length: Tensor, success: Tensor, horizon: Tensor) -> Tensor:
    """Returns (F,) of frames, in [LOW, HIGH].

    steps: control step of every frame (F,).
    length, success, horizon: steps, success and task's horizon of every frame's episode (F,).
    """
    return torch.where(success, -(length - steps) / horizon, LOW).clamp(LOW, HIGH)
