"""Time limits for episodes of training: a multiple of the median length of the task's successes.

An episode without success by then is stuck and stays so. Successes of Meta-World's hand-insert take 60 of 500 steps.
There, stuck episodes were two thirds of the simulated steps and an eighth of the gradient's data.
"""

import numpy as np

from ..shared.episodes import Trajectory

TIMES = 3.0  # time limit, as a multiple of the successes' median
LEAST = 5  # successes that a task needs to get a time limit

Patience = dict[str, int]  # task -> limit in control steps. A missing task has its horizon.


def patience(rollouts: list[Trajectory]) -> Patience:
    """The time limit of every task with at least LEAST successes in the round."""
    took: dict[str, list[int]] = {}
    for rollout in rollouts:
        if rollout.success:
            took.setdefault(rollout.task, []).append(rollout.steps)
    return {task: round(TIMES * float(np.median(steps))) for task, steps in took.items() if len(steps) >= LEAST}


def in_time(rollout: Trajectory, known: Patience) -> bool:
    """True where the episode succeeded within its task's limit."""
    return rollout.success and rollout.steps <= known.get(rollout.task, rollout.steps)
