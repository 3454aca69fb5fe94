"""Intervals and tests for success counts, by scipy."""

import math
from dataclasses import dataclass

from scipy.stats import barnard_exact, binomtest, norm


@dataclass(frozen=True)
class Proportion:
    successes: int
    n: int

    @property
    def value(self) -> float:
        return self.successes / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval."""
        if not self.n:
            return 0.0, 1.0
        ci = binomtest(self.successes, self.n).proportion_ci(0.95, method="wilson")
        return float(ci.low), float(ci.high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.0f}% [{100 * low:.0f}, {100 * high:.0f}]" if self.n else "-"

    def as_dict(self) -> dict[str, float]:
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
        return self.p_value < 0.05

    @property
    def verdict(self) -> str:
        if not self.significant:
            detectable = f"differences above {100 * self.detectable:.0f} points would show"
            return f"no significant difference (p = {self.p_value:.2f}; {detectable})"
        return f"{'B' if self.difference > 0 else 'A'} is better (p = {self.p_value:.2g})"


def paired(a: list[bool], b: list[bool]) -> Comparison:
    """The same episodes under A and B: McNemar's exact test on those where the outcomes differ."""
    n = len(a)
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    discordant = only_a + only_b
    p = binomtest(only_b, discordant).pvalue if discordant else 1.0
    difference = (only_b - only_a) / n
    error = math.sqrt(max(0.0, discordant / n - difference**2) / n)
    spread = math.sqrt(max(discordant, 1) / n / n)
    return _comparison("McNemar, paired by seed", difference, error, float(p), spread)


def unpaired(a: Proportion, b: Proportion) -> Comparison:
    """Different episodes: Barnard's exact test."""
    table = [[a.successes, b.successes], [a.n - a.successes, b.n - b.successes]]
    p = 1.0 if a.value == b.value else float(barnard_exact(table).pvalue)
    error = math.sqrt(a.value * (1 - a.value) / a.n + b.value * (1 - b.value) / b.n)
    spread = math.sqrt(0.25 / a.n + 0.25 / b.n)
    return _comparison("Barnard, unpaired", b.value - a.value, error, p, spread)


def _comparison(test: str, difference: float, error: float, p: float, spread: float) -> Comparison:
    z = float(norm.ppf(0.975))
    detectable = min(1.0, (z + float(norm.ppf(0.8))) * spread)
    return Comparison(test, difference, difference - z * error, difference + z * error, p, detectable)
