"""Reward terms: small pure functions with values in [0, 1]."""

import math


def tolerance(value: float, bound: float, margin: float) -> float:
    """1 while |value| <= bound, then a Gaussian that falls to 0.1 at bound + margin (dm_control.utils.rewards)."""
    excess = abs(value) - bound
    if excess <= 0:
        return 1.0
    return math.exp(-0.5 * (excess / margin * math.sqrt(-2 * math.log(0.1))) ** 2)
