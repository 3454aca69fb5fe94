"""Rewards, returns and advantages of looks, for policy gradients.

    reward of a look    rise of the task's own dense reward until the next look, plus 1 at the end of a success
    A_i                 generalised advantage estimation over the looks of an episode (arXiv 1506.02438)
    A of a group        success against the other episodes of that layout, in deviations (GRPO, arXiv 2402.03300)

The rises sum to the progress of the episode, so that staying in a good state earns nothing. With success as the only
reward, one look of about thirty has too small an effect. It does not show in the hundreds of episodes that two cores
simulate.
"""

import numpy as np
import torch
from torch import Tensor

from ..shared.episodes import Trajectory


def progress(trajectory: Trajectory) -> np.ndarray:
    """The task's dense reward at every look and at the end, float32 (L + 1,).

    The first look precedes all rewards. It gets the reward of the first step.
    """
    reward, look = trajectory.arrays["reward"], trajectory.arrays["look"]
    return np.append(reward[np.maximum(look - 1, 0)], reward[-1])


def rewards(trajectory: Trajectory) -> np.ndarray:
    """The reward of every look, float32 (L,): the rise of the dense reward, plus 1 for success at the last look."""
    rises = np.diff(progress(trajectory))
    rises[-1] += trajectory.success
    return rises


def estimate(reward: Tensor, value: Tensor, episode: Tensor, discount: float, trace: float) -> Tensor:
    """Generalised advantage estimation: advantages (F,), not normalised.

    reward, value, episode: reward, value and number of the episode of every look (F,).
    discount: per look.
    trace: lambda of the estimator.
    The value after the end of an episode is 0, also at a time limit: the value function has the time as input.
    """
    gain, following, worth = torch.zeros(len(reward)), 0.0, 0.0
    for i in reversed(range(len(reward))):
        if i + 1 == len(reward) or episode[i] != episode[i + 1]:
            following = worth = 0.0
        following = float(reward[i] - value[i]) + discount * (worth + trace * following)
        gain[i], worth = following, float(value[i])
    return gain


def returns(reward: Tensor, episode: Tensor, discount: float) -> Tensor:
    """Discounted sum of the rewards from every look to the end of its episode (F,)."""
    return estimate(reward, torch.zeros(len(reward)), episode, discount, trace=1.0)


def group_advantages(rollouts: list[Trajectory]) -> Tensor:
    """Advantages (episodes,) of GRPO: success minus the mean of its layout, in standard deviations of the layout.

    0 where all episodes of the layout ended alike.
    """
    seeds = np.array([r.seed for r in rollouts])
    success = np.array([float(r.success) for r in rollouts])
    gains = np.zeros(len(rollouts), np.float32)
    for seed in np.unique(seeds):
        mine = seeds == seed
        if success[mine].std() > 0:
            gains[mine] = (success[mine] - success[mine].mean()) / success[mine].std()
    return torch.from_numpy(gains)
