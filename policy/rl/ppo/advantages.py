"""How much better than expected a look was, for policy gradients.

    reward of a look    how much the task's own dense reward rose until the next look, and 1 where the episode succeeds
    A_i                 generalised advantage estimation over the looks of an episode (arXiv 1506.02438)
    A of a group        success against the other episodes of that layout, in deviations (GRPO, arXiv 2402.03300)

Rises add up to where the episode got to: staying where it is good pays nothing. Of success alone, a look of
some thirty has too small a share to be seen in the hundreds of episodes that two cores simulate.
"""

import numpy as np
import torch
from torch import Tensor

from ..shared.episodes import Trajectory


def progress(trajectory: Trajectory) -> np.ndarray:
    """The task's reward at every look and at the end, float32 (L + 1,). At the first look nothing has been rewarded
    yet: it has that of the first step."""
    reward, look = trajectory.arrays["reward"], trajectory.arrays["look"]
    return np.append(reward[np.maximum(look - 1, 0)], reward[-1])


def rewards(trajectory: Trajectory) -> np.ndarray:
    """Of its looks, float32 (L,)."""
    rises = np.diff(progress(trajectory))
    rises[-1] += trajectory.success
    return rises


def estimate(reward: Tensor, value: Tensor, episode: Tensor, discount: float, trace: float) -> Tensor:
    """reward, value and number of the episode of every look (F,) -> advantages (F,), not normalised. Nothing is worth
    anything after an episode's end: whoever values knows how much time is left."""
    gain, following, worth = torch.zeros(len(reward)), 0.0, 0.0
    for i in reversed(range(len(reward))):
        if i + 1 == len(reward) or episode[i] != episode[i + 1]:
            following = worth = 0.0
        following = float(reward[i] - value[i]) + discount * (worth + trace * following)
        gain[i], worth = following, float(value[i])
    return gain


def returns(reward: Tensor, episode: Tensor, discount: float) -> Tensor:
    """What came of every look, (F,)."""
    return estimate(reward, torch.zeros(len(reward)), episode, discount, trace=1.0)


def group_advantages(rollouts: list[Trajectory]) -> Tensor:
    """(episodes,): success against the mean of the same layout's episodes, in deviations. 0 where all ended alike."""
    seeds = np.array([r.seed for r in rollouts])
    success = np.array([float(r.success) for r in rollouts])
    gains = np.zeros(len(rollouts), np.float32)
    for seed in np.unique(seeds):
        mine = seeds == seed
        if success[mine].std() > 0:
            gains[mine] = (success[mine] - success[mine].mean()) / success[mine].std()
    return torch.from_numpy(gains)
