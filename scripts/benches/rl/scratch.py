"""Learning without any policy, for reference: stable-baselines3's SAC on the simulator's state, its curve per task.

Every run leaves a folder in --output. The same command skips those that are done.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .... import envs
from ....data.files import json_bytes, write_atomic
from ...shared.errors import UserError
from ...shared.settings import same_settings
from .record import DONE, curve_in
from .rows import curve


@dataclass(frozen=True)
class Args:
    """Flags of `tandem bench scratch`."""

    tasks: tuple[str, ...] = ("reach", "push")
    minutes: float = 15.0  # of each
    seed: int = 0
    workers: int = 2
    output: Path = Path("outputs/rl/bench_scratch")
    publish: bool = False  # write docs/results/rl_scratch.json
    dry_run: bool = False


def measure(args: Args) -> dict[str, Any]:
    """{task: {environment steps: success of the last episodes, with its interval}}."""
    same_settings(args.output, {"minutes": args.minutes, "workers": args.workers})
    return {task: _learned(args, task) for task in envs.resolve(args.tasks)}


def results(_: Args, curves: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The published figures by the name of their file."""
    return {"rl_scratch": curves}


def _learned(args: Args, task: str) -> dict[str, Any]:
    folder = args.output / f"{task}_{args.seed}"
    if not (folder / DONE).exists():
        flags = ["scratch", "--tasks", task, "--seed", str(args.seed), "--minutes", str(args.minutes)]
        flags += ["--workers", str(args.workers), "--output", str(folder)]
        if subprocess.run([sys.executable, "-m", "tandem.scripts", "rl", *flags]).returncode:
            raise UserError(f"learning {task} failed; delete {folder} where it exists, and run again")
        write_atomic(folder / DONE, json_bytes({"minutes": args.minutes}))
    return curve([curve_in(folder)])
