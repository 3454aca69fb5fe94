"""Evaluates a peer's checkpoint, as `tandem eval` does a checkpoint of ours. Runs in .venv-peers.

results.json has what `tandem compare A B --mode hierarchical --mode-b act` needs. The peer's name stands for the mode.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from ...policy.evaluate.evaluation import evaluate, plan, resolve_tasks, summary
from ..publish.manifest import manifest
from .agent import run_job

DEADLINE = 3600.0  # seconds for one episode: a chunk may take some, and an episode has 60 of them


@dataclass(frozen=True)
class Args:
    """Flags of this program."""

    system: str  # a peer's name
    checkpoint: str  # `pretrained_model` of one of LeRobot's checkpoints
    tasks: tuple[str, ...]
    episodes: int  # per task
    first_seed: int
    workers: int
    output: Path  # an evaluation in it is continued


def main(args: Args) -> None:
    """Runs this program and returns its exit code."""
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
