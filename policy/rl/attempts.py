"""Advantages of attempts, the looks that have one noise (exploration.py), from sparse success.

Later looks of an attempt see what its noise did: a value of theirs would be no baseline, and its errors would be
learned. So an attempt has one advantage.
"""

import numpy as np
import torch
from torch import Tensor

from policy.rl.exploration import HOLD
from policy.rl.rollouts import Trajectory
from policy.rl.samples import Samples


def estimate(samples: Samples, value: Tensor, discount: float, trace: float) -> Tensor:
    """Generalised advantage estimation over the attempts of every episode, normalised; its attempt's for every look,
    (F,). value (F,).

    The reward is 1 at the last look of an episode that succeeds; an episode that runs out of time ends with nothing.
    """
    left, gain = looks_after(samples), torch.zeros(len(samples))
    position = torch.arange(len(left)) - torch.searchsorted(samples.episode, samples.episode)  # in its episode
    starts = torch.nonzero(position % HOLD == 0)[:, 0].tolist()
    following = 0.0
    for begin, end in reversed(list(zip(starts, [*starts[1:], len(left)], strict=True))):
        looks, ends = end - begin, int(left[end - 1]) == 0
        if ends:
            following = float(samples.success[begin]) * discount ** (looks - 1) - float(value[begin])
        else:
            surprise = discount**looks * float(value[end]) - float(value[begin])
            following = surprise + discount**looks * trace * following
        gain[begin:end] = following
    return (gain - gain.mean()) / (gain.std() + 1e-6)


def looks_after(samples: Samples) -> Tensor:
    """Looks of its episode that follow a look, (F,)."""
    end = torch.searchsorted(samples.episode, samples.episode, right=True)
    return end - 1 - torch.arange(len(samples))


def group_advantages(rollouts: list[Trajectory]) -> Tensor:
    """(episodes,): success against the mean of the same layout's episodes, in deviations; 0 where all ended alike."""
    seeds = np.array([r.seed for r in rollouts])
    success = np.array([float(r.success) for r in rollouts])
    gains = np.zeros(len(rollouts), np.float32)
    for seed in np.unique(seeds):
        mine = seeds == seed
        if success[mine].std() > 0:
            gains[mine] = (success[mine] - success[mine].mean()) / success[mine].std()
    return torch.from_numpy(gains)
