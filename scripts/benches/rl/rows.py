"""What the pages show of reinforcement learning, made of records: gains, curves, a suite."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ....policy.evaluate.statistics import Proportion, paired
from .record import Record, alike

Rows = dict[str, dict[str, dict[str, Any]]]  # task -> method -> figures


def rows(records: list[Record]) -> Rows:
    found: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        for task in record.after:
            found.setdefault(task, {}).setdefault(record.method, []).append(record)
    return {task: {method: gain(runs, task) for method, runs in methods.items()} for task, methods in found.items()}


def gain(runs: list[Record], task: str) -> dict[str, Any]:
    """One task: all training seeds beside the policy before on the same layouts.

    `low` and `high` are the gain's 95% interval over layouts and training seeds. `higher` and `lower` count the seeds
    of which `tandem compare` calls the change significant. Lengths are those of the layouts that succeed both before
    and after.
    """
    alike(runs)
    both_ran = [
        [(old, run.after[task][at]) for at, old in run.before[task].items() if at in run.after[task]] for run in runs
    ]
    changes = [paired([a for (a, _), _ in pairs], [b for _, (b, _) in pairs]) for pairs in both_ran]
    clear = [change.difference for change in changes if change.significant]
    both = [(old, new) for pairs in both_ran for (a, old), (b, new) in pairs if a and b]
    everywhere = [at for at in runs[0].before[task] if all(at in r.before[task] and at in r.after[task] for r in runs)]
    before, after = (
        np.array([[getattr(run, when)[task][at][0] for at in everywhere] for run in runs], float)
        for when in ("before", "after")
    )
    low, high = interval(after - before)
    return {
        "before": before.mean(),
        "after": after.mean(),
        "gain": (after - before).mean(),
        "low": low,
        "high": high,
        "each": "/".join(f"{100 * np.mean([won for won, _ in run.after[task].values()]):.0f}" for run in runs),
        "higher": sum(difference > 0 for difference in clear),
        "lower": sum(difference < 0 for difference in clear),
        "length_before": sum(old for old, _ in both) / max(1, len(both)),
        "length_after": sum(new for _, new in both) / max(1, len(both)),
        "layouts": len(everywhere),
        "env_steps": sum(run.env_steps for run in runs) // len(runs),
        "minutes": round(sum(run.took for run in runs) / len(runs), 1),
        "seeds": len(runs),
        "code": "/".join(sorted({run.code[:7] for run in runs})),
    }


def interval(changes: np.ndarray, draws: int = 4000) -> tuple[float, float]:
    """changes (seeds, layouts) -> the mean's 95% bootstrap interval, drawing seeds and layouts again."""
    rng, (S, L) = np.random.default_rng(0), changes.shape
    means = [changes[rng.integers(S, size=S)][:, rng.integers(L, size=L)].mean() for _ in range(draws)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def suite(of_tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """task -> gain: the mean, every task, and how many fell significantly in any run."""
    mean = {name: sum(row[name] for row in of_tasks.values()) / len(of_tasks) for name in ("before", "after")}
    return mean | {"tasks_lower": sum(row["lower"] > 0 for row in of_tasks.values()), "tasks": of_tasks}


def curves(records: Iterable[Record]) -> dict[str, dict[str, Any]]:
    """{tasks that one policy learned: {method: {environment steps: success with its interval}}}, over the training
    seeds. While a policy learns it explores, so that this is less than what it reaches."""
    found: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        found.setdefault(record.group, {}).setdefault(record.method, []).append(record)
    return {
        group: {m: curve([r.curve for r in runs]) for m, runs in methods.items()} for group, methods in found.items()
    }


def curve(lines: list[list[tuple[int, float, int]]], points: int = 20) -> dict[str, Any]:
    """The mean of several runs at steps that all of them reached, with Wilson's interval over their last episodes."""
    if not (lines := [line for line in lines if line]):  # runs too short for a point
        return {}
    end = min(line[-1][0] for line in lines)
    found = {}
    for step in np.linspace(end / points, end, points):
        shares, counts = np.transpose([_at(step, *np.transpose(line)) for line in lines])
        count = int(counts.sum())
        found[str(int(step))] = Proportion(round(shares.mean() * count), count).as_dict()
    return found


def _at(step: float, steps: np.ndarray, shares: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    return float(np.interp(step, steps, shares)), float(np.interp(step, steps, counts))
