"""Does learning make a policy worse? A round's success against that of the first round, in which it acted as it was.

Where hardly anything that is drawn decides how an episode ends, a policy gradient is noise, and its steps lead away
from what demonstrations taught.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import mannwhitneyu

from ..shared.episodes import Trajectory
from .time_limit import Patience, in_time

CHANCE = 1e-3  # of such a difference by luck: every round is tested


def by_layout(rollouts: list[Trajectory], known: Patience) -> list[float]:
    """Success in time on each of the layouts, which are what is independent."""
    seeds = np.array([rollout.seed for rollout in rollouts])
    success = np.array([in_time(rollout, known) for rollout in rollouts])
    return [float(success[seeds == seed].mean()) for seed in np.unique(seeds)]


def declined(first: Sequence[float], now: Sequence[float]) -> bool:
    """Is success on the layouts of this round less than on those of the first one? By the test of Mann and Whitney."""
    return bool(mannwhitneyu(first, now, alternative="greater", method="asymptotic").pvalue < CHANCE)
