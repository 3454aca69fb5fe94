"""Evaluates a peer's checkpoint, like `tandem eval` for Tandem's checkpoints. Runs in .venv-peers.

The file results.json has the entries that `tandem compare A B --mode hierarchical --mode-b act` reads. The peer's name
takes the place of the mode.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from ...policy.evaluate.evaluation import evaluate, plan, resolve_tasks, summary
from ..publish.manifest import manifest
from .agent import run_job

DEADLINE = 3600.0  # seconds for one episode, of up to 60 chunks that may take some seconds each


@dataclass(frozen=True)
class Args:
    """Flags of the evaluation of a peer."""

    system: str  # Name of the peer: act, diffusion or smolvla. The results list it as the mode.
    checkpoint: str  # Folder `pretrained_model` of a LeRobot checkpoint.
    tasks: tuple[str, ...]  # Names of the tasks or suites to evaluate.
    episodes: int  # Episodes of each task.
    first_seed: int  # Seed of the first layout. The following episodes count up from it.
    workers: int  # Worker processes. More is faster until the cores are used up.
    output: Path  # Folder of the results. An evaluation in it is continued.


def main(args: Args) -> None:
    """Evaluates the peer and writes results.json into the output folder."""
    episodes = plan(resolve_tasks(args.tasks), args.episodes, args.first_seed, (args.system,), ("normal",))
    outcomes = evaluate(args.checkpoint, episodes, args.output, args.workers, work=run_job, deadline=DEADLINE)
    results = {
        "manifest": manifest(checkpoint=args.checkpoint),
        "options": asdict(args),
        "summary": summary(outcomes),
        "train_minutes": None,
        "episodes": [outcome.as_dict() for outcome in outcomes],
    }
    (args.output / "results.json").write_text(json.dumps(results, indent=1, default=str), encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Args))
