"""How long episodes take before and after RECAP, as the speed page shows it.

length of the layouts that succeed before and after: how fast what could be done is done now
length of all layouts, a failure as long as it lasted: how long one waits for the outcome (the restricted mean time
to success, the former is blind to layouts that became possible, and to those that were slow because they nearly failed)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .record import Record, alike

DRAWS = 4000  # of the bootstrap


@dataclass(frozen=True)
class Pairs:
    """Of one task, (2, S, L): before and after, training seeds, layouts that all of these ran."""

    won: np.ndarray
    steps: np.ndarray

    @classmethod
    def of(cls, runs: list[Record], task: str) -> "Pairs":
        alike(runs)
        layouts = [at for at in runs[0].before[task] if all(at in r.before[task] and at in r.after[task] for r in runs)]
        found = np.array([[[run.before[task][at], run.after[task][at]] for at in layouts] for run in runs], float)
        won, steps = np.moveaxis(found, (3, 2), (0, 1))
        return cls(won > 0, steps)

    def drawn(self, seeds: np.ndarray, rng: np.random.Generator) -> "Pairs":
        """Layouts, and training seeds, again.
        seeds: in [0, 1), the same for all tasks: one run may have had them."""
        _, S, L = self.won.shape
        at = np.ix_(np.arange(2), (seeds[:S] * S).astype(int), rng.integers(L, size=L))
        return Pairs(self.won[at], self.steps[at])


def speed(records: list[Record]) -> dict[str, Any]:
    """Means over tasks. {} where no layout succeeds before and after."""
    tasks = sorted({task for record in records for task in record.after})
    pairs = [Pairs.of([r for r in records if task in r.after], task) for task in tasks]
    if not any(of.won.all(0).any() for of in pairs):
        return {}
    rng, most = np.random.default_rng(0), max(of.won.shape[1] for of in pairs)
    draws = [[of.drawn(seeds, rng) for of in pairs] for seeds in rng.random((DRAWS, most))]
    both, every = _row(_both, pairs, draws), _row(_every, pairs, draws)
    won_before, won_after = np.mean([of.won.mean((1, 2)) for of in pairs], 0)
    return {
        "length_before": both["length_before"],
        "length_after": both["length_after"],
        "change": both["change"],
        "success_before": won_before,
        "success_after": won_after,
        "layouts": {"succeed before and after": both, "all, a failure as long as it lasted": every},
    }


def _row(lengths: Callable[[Pairs], np.ndarray], pairs: list[Pairs], draws: list[list[Pairs]]) -> dict[str, float]:
    before, after = _mean(lengths, pairs)
    changes = [new / old - 1 for old, new in (_mean(lengths, drawn) for drawn in draws)]
    low, high = np.nanquantile(changes, [0.025, 0.975])
    return {"length_before": before, "length_after": after, "change": after / before - 1, "low": low, "high": high}


def _mean(lengths: Callable[[Pairs], np.ndarray], pairs: list[Pairs]) -> np.ndarray:
    """Before and after, over the tasks that have such layouts. (2,)."""
    found = [length for of in pairs if np.isfinite(length := lengths(of)).all()]
    return np.mean(found, 0) if found else np.full(2, np.nan)


def _both(of: Pairs) -> np.ndarray:
    both = of.won.all(0)
    return of.steps[:, both].mean(1) if both.any() else np.full(2, np.nan)


def _every(of: Pairs) -> np.ndarray:
    return of.steps.mean((1, 2))  # type: ignore[no-any-return]
