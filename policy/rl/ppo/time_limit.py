"""How long an episode of practice may take: a few times what its task's successes took.

Who has not succeeded by then is stuck and stays so. On Meta-World's hand-insert, whose successes take 60 of 500 steps,
episodes that are stuck were two thirds of all that was simulated, and an eighth of what the gradient came from.
"""

import numpy as np

from ..shared.episodes import Trajectory

TIMES = 3.0  # the median of the successes
LEAST = 5  # successes that say how long one takes

Patience = dict[str, int]  # task -> control steps; one that is not in it: its horizon


def patience(rollouts: list[Trajectory]) -> Patience:
    """By the successes of one round."""
    took: dict[str, list[int]] = {}
    for rollout in rollouts:
        if rollout.success:
            took.setdefault(rollout.task, []).append(rollout.steps)
    return {task: round(TIMES * float(np.median(steps))) for task, steps in took.items() if len(steps) >= LEAST}


def in_time(rollout: Trajectory, known: Patience) -> bool:
    """Did it succeed in what `known` allows?"""
    return rollout.success and rollout.steps <= known.get(rollout.task, rollout.steps)
