"""Is it the eyes or the hands? The expert acts by what a policy sees of the things that the instruction means.

Per task of Tabletop, on the same layouts: the expert. The expert that takes these things to be where the policy's
encoder sees them, or where its memory has them (after recap). And the policy itself, flat. Errors are those of the ways
from the hand to them, near (within 8 cm of it) and far. A policy that does as well as the expert by its eyes is as good
as they let it be.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from .... import envs
from ....data.progress import progress_bar
from ...shared.errors import UserError
from .nudge import FIRST_SEED

NEAR = 0.08  # metres
TASKS = ("reach", "push", "pick_place", "stack")  # of things that lie about, which one can misplace


@dataclass(frozen=True)
class Args:
    """Flags of `tandem bench eyes`."""

    checkpoint: Path = Path("outputs/train/few")
    tasks: tuple[str, ...] = ("push", "pick_place", "stack")
    episodes: int = 60  # of each task
    workers: int = 2
    publish: bool = False  # write docs/results/bench_eyes.json
    dry_run: bool = False


def measure(args: Args) -> dict[str, Any]:
    """{task: {who: success with its interval, length of successes, errors}}."""
    from ....policy.checkpoint.bundle import Bundle
    from ....policy.evaluate.pool import Crash, Pool
    from .by_eyes import Job, Ran, Who, run

    tasks, every = envs.resolve(args.tasks), get_args(Who)
    if strange := sorted(set(tasks) - set(TASKS)):
        raise UserError(f"the expert of {strange[0]} cannot go by another's eyes; use {', '.join(TASKS)}")
    if Bundle.load(args.checkpoint).memory is None:
        every = tuple(who for who in every if "recalled" not in who)
    kinds = [(task, who) for task in tasks for who in every]
    jobs = [Job(args.checkpoint, t, FIRST_SEED + i, who) for t, who in kinds for i in range(args.episodes)]
    ran: dict[tuple[str, str], list[Ran]] = {kind: [] for kind in kinds}
    with Pool(run, args.workers) as pool, progress_bar(total=len(jobs), unit="episode", desc="eyes") as bar:
        for index, result in pool.run(jobs):
            if isinstance(result, Crash):
                raise UserError(f"{jobs[index]}: {result.reason}")
            ran[jobs[index].task, jobs[index].who].append(result)
            bar.update()
    return {task: {who: row(ran[task, who], who) for who in every} for task in tasks}


def row(ran: list[Any], who: str) -> dict[str, Any]:
    """Of one task and who acts. `length`: control steps of successes. Errors [mm], none for who knows the truth."""
    from ....policy.evaluate.statistics import Proportion

    won = [r.steps for r in ran if r.success]
    figures = Proportion(len(won), len(ran)).as_dict()
    error, distance = (np.concatenate([getattr(r, name) for r in ran]) for name in ("error", "distance"))
    found = {"length": float(np.mean(won)) if won else None}
    for where, inside in (("near", distance < NEAR), ("far", distance >= NEAR)):
        for name, share in (("median", 0.5), ("90%", 0.9)):
            known = who != "expert" and inside.any()
            found[f"{where} {name} [mm]"] = float(1e3 * np.quantile(error[inside], share)) if known else None
    return {key: figures[key] for key in ("success", "low", "high")} | found
