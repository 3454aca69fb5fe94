"""Means over seeds with 95% intervals (Student's t)."""

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from scipy import stats


def summary(values: Sequence[float]) -> dict[str, Any]:
    """{"mean", "low", "high", "n"}. One value has no interval."""
    if len(values) < 2:
        return {"mean": values[0], "low": values[0], "high": values[0], "n": len(values)}
    half = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return {"mean": mean(values), "low": mean(values) - half, "high": mean(values) + half, "n": len(values)}
