"""Intervals and tests for success counts, by scipy, which is imported when it is needed: it takes its time.

Intervals hold at the edges too, where few or no episodes differ: Wald's, which takes the spread that was seen for the
truth, has no width there. Wilson's is of one proportion, Newcombe's of two that are independent (method 10 of Newcombe,
Statistics in Medicine 17:873, 1998), Tango's of two that are paired (Statistics in Medicine 17:891, 1998).
"""

import math
from dataclasses import dataclass

Z, Z_POWER = 1.959963984540054, 0.8416212335729143  # quantiles of the normal distribution at 0.975 and 0.8
TINY = 1e-12  # from the ends of what a difference can be, where nothing varies


@dataclass(frozen=True)
class Proportion:
    """Successes of n episodes, with Wilson's interval."""

    successes: int
    n: int

    @property
    def value(self) -> float:
        """Share of successes. NaN where there are no episodes."""
        return self.successes / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval."""
        if not self.n:
            return 0.0, 1.0
        from scipy.stats import binomtest

        ci = binomtest(self.successes, self.n).proportion_ci(0.95, method="wilson")
        return float(ci.low), float(ci.high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.0f}% [{100 * low:.0f}, {100 * high:.0f}]" if self.n else "-"

    def as_dict(self) -> dict[str, float]:
        """As a dictionary for JSON."""
        low, high = self.interval
        return {"success": round(self.value, 4), "low": round(low, 4), "high": round(high, 4), "n": self.n}


@dataclass(frozen=True)
class Comparison:
    """B against A."""

    test: str
    difference: float  # success of B minus success of A
    low: float  # 95% interval of the difference
    high: float
    p_value: float
    detectable: float  # smallest difference that this many episodes would find with power 0.8

    @property
    def significant(self) -> bool:
        """Is the p-value below 0.05?"""
        return self.p_value < 0.05

    @property
    def verdict(self) -> str:
        """The verdict as a sentence."""
        if not self.significant:
            detectable = f"differences above {100 * self.detectable:.0f} points would show"
            return f"no significant difference (p = {self.p_value:.2f}; {detectable})"
        return f"{'B' if self.difference > 0 else 'A'} is better (p = {self.p_value:.2g})"

    @property
    def brief(self) -> str:
        """The verdict in two words."""
        if not self.significant:
            return "no difference"
        return "B better" if self.difference > 0 else "A better"


def paired(a: list[bool], b: list[bool]) -> Comparison:
    """The same episodes under A and B: McNemar's exact test on those where the outcomes differ, Tango's interval."""
    n = len(a)
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    discordant = only_a + only_b
    from scipy.stats import binomtest

    p = binomtest(only_b, discordant).pvalue if discordant else 1.0
    spread = math.sqrt(max(discordant, 1) / n / n)
    return _comparison("McNemar, paired by seed", (only_b - only_a) / n, tango(only_a, only_b, n), float(p), spread)


def unpaired(a: Proportion, b: Proportion) -> Comparison:
    """Different episodes: Barnard's exact test, Newcombe's interval."""
    table = [[a.successes, b.successes], [a.n - a.successes, b.n - b.successes]]
    from scipy.stats import barnard_exact

    p = 1.0 if a.value == b.value else float(barnard_exact(table).pvalue)
    spread = math.sqrt(0.25 / a.n + 0.25 / b.n)
    return _comparison("Barnard, unpaired", b.value - a.value, newcombe(a, b), p, spread)


def tango(only_a: int, only_b: int, n: int) -> tuple[float, float]:
    """95% interval of (successes of B - successes of A) / n, of n pairs: the differences that a score test at 5% does
    not refuse. only_a: pairs in which A alone succeeded."""
    difference = (only_b - only_a) / n

    def score(delta: float) -> float:
        """How many deviations the counts are from what they would be at a true difference of `delta`."""
        b = -only_a - only_b + (2 * n - only_b + only_a) * delta
        c = -only_a * delta * (1 - delta)
        only = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)  # the likeliest share of pairs that A alone wins
        return n * (difference - delta) / math.sqrt(max(1e-300, n * (2 * only + delta * (1 - delta))))

    from scipy.optimize import brentq

    low = -1.0 if only_a == n else brentq(lambda delta: score(delta) - Z, -1 + TINY, difference)
    high = 1.0 if only_b == n else brentq(lambda delta: score(delta) + Z, difference, 1 - TINY)
    return float(low), float(high)


def newcombe(a: Proportion, b: Proportion) -> tuple[float, float]:
    """95% interval of B - A, from the Wilson intervals of both."""
    (low_a, high_a), (low_b, high_b), difference = a.interval, b.interval, b.value - a.value
    below = math.hypot(b.value - low_b, high_a - a.value)
    above = math.hypot(high_b - b.value, a.value - low_a)
    return max(-1.0, difference - below), min(1.0, difference + above)


def _comparison(test: str, difference: float, interval: tuple[float, float], p: float, spread: float) -> Comparison:
    detectable = min(1.0, (Z + Z_POWER) * spread)
    return Comparison(test, difference, *interval, p, detectable)
