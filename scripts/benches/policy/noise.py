"""How much of success the noise of the flow decides: that of one look, and that of a whole attempt.

Every layout is acted with the same draws of the noise that `tandem rl dsrl` chooses, for its first look or its
first attempt, and every draw is continued several times with other noise, flat. What is left of the variance is decided
later on. `success_best` knows the layout, `success_constant` is one draw for all of them. What a learner can
reach lies between them, as far as what is seen of a layout tells which draw suits it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .... import envs
from ....data.progress import progress_bar
from ...shared.errors import UserError


@dataclass(frozen=True)
class Args:
    """Flags of `tandem bench noise`."""

    checkpoint: Path = Path("outputs/train/few")
    tasks: tuple[str, ...] = ("push", "pick_place", "stack")
    layouts: int = 20
    draws: int = 8  # of the noise, on every layout
    repeats: int = 2  # continuations of every draw; an even number
    workers: int = 2
    publish: bool = False  # write docs/results/bench_noise.json
    dry_run: bool = False


def measure(args: Args) -> dict[str, Any]:
    """Runs the measurement and returns its figures by name."""
    if args.repeats < 2 or args.repeats % 2 or min(args.layouts, args.draws) < 2:
        raise UserError("--repeats must be even, and --layouts and --draws at least 2: variances are measured")
    from ....policy.evaluate.pool import Crash, Pool
    from ....policy.rl.dsrl.noise_env import HOLD
    from .nudge import Job, succeeds

    tasks, holds = envs.resolve(args.tasks), {"look": 1, "attempt": HOLD}
    kinds, shape = [(task, name) for task in tasks for name in holds], (args.layouts, args.draws, args.repeats)
    jobs = [
        Job(args.checkpoint, t, holds[n], layout, draw, repeat)
        for t, n in kinds
        for layout, draw, repeat in np.ndindex(*shape)
    ]
    outcomes = np.zeros(len(jobs))
    with Pool(succeeds, args.workers) as pool, progress_bar(total=len(jobs), unit="episode", desc="noise") as bar:
        for index, success in pool.run(jobs):
            if isinstance(success, Crash):
                raise UserError(f"{jobs[index]}: {success.reason}; run `tandem doctor`")
            outcomes[index] = success
            bar.update()
    found = dict(zip(kinds, outcomes.reshape(-1, *shape), strict=True))
    return {task: row(found[task, "look"], found[task, "attempt"]) for task in tasks}


def row(look: np.ndarray, attempt: np.ndarray) -> dict[str, float]:
    """Outcomes (layouts, draws, repeats) of either -> success, shares of its variance, and what knowing would give."""
    of_look, of_attempt = shares(look), shares(attempt)
    return {
        "success": float(attempt.mean()),
        "share_layout": of_attempt[0],
        "share_look": of_look[1],
        "share_attempt": of_attempt[1],
        "success_best": best(attempt),
        "success_constant": constant(attempt),
    }


def constant(outcomes: np.ndarray) -> float:
    """Success with the draw that was best on half of the layouts, on the other half, (L, K, R)."""
    found = outcomes.mean(2)  # (L, K)
    halves = (found[::2], found[1::2])
    return float(np.mean([tried[:, chosen.mean(0).argmax()].mean() for chosen, tried in (halves, halves[::-1])]))


def shares(outcomes: np.ndarray) -> tuple[float, float]:
    """(L, K, R) -> shares of the variance of success: of layouts, of draws on a layout (two-way nested analysis of
    variance, what has no effect comes out around 0, below it too)."""
    _, K, R = outcomes.shape
    rest = outcomes.var(2, ddof=1).mean()
    draws = outcomes.mean(2).var(1, ddof=1).mean() - rest / R
    layouts = outcomes.mean((1, 2)).var(ddof=1) - (draws + rest / R) / K
    total = max(rest + draws + layouts, 1e-9)
    return float(layouts / total), float(draws / total)


def best(outcomes: np.ndarray) -> float:
    """Success with the draw that was best in half of the repeats, in the other half, (L, K, R)."""
    half, found = outcomes.shape[2] // 2, []
    for chosen, tried in ((outcomes[..., :half], outcomes[..., half:]), (outcomes[..., half:], outcomes[..., :half])):
        found.append(np.take_along_axis(tried.mean(2), chosen.mean(2).argmax(1)[:, None], axis=1).mean())
    return float(np.mean(found))
