"""Stops a run that makes its policy worse: a round is compared with the first round, in which the base policy acted.

Where random shifts hardly affect the outcome of an episode, the policy gradient is noise. Its steps then lead away from
the behaviour of the demonstrations.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import mannwhitneyu

from ..shared.episodes import Trajectory
from .time_limit import Patience, in_time

CHANCE = 1e-3  # significance level, strict because every round is tested


def by_layout(rollouts: list[Trajectory], known: Patience) -> list[float]:
    """Success rate in time on each layout. Layouts are the independent units, episodes of one layout are not."""
    seeds = np.array([rollout.seed for rollout in rollouts])
    success = np.array([in_time(rollout, known) for rollout in rollouts])
    return [float(success[seeds == seed].mean()) for seed in np.unique(seeds)]


def declined(first: Sequence[float], now: Sequence[float]) -> bool:
    """True where this round's success is significantly below the first round's, by the Mann-Whitney test.

    first, now: success rate on each layout of the round.
    """
    return bool(mannwhitneyu(first, now, alternative="greater", method="asymptotic").pvalue < CHANCE)
