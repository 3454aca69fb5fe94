"""Train and evaluate LeRobot's policies and Tandem on the same data, minutes, machine and seeds, and write the table.

`python -m tandem.scripts.peers --publish` does everything: demonstrations, the peers' environment, training, measuring,
evaluating. Each stage leaves a file in --output. After an interruption, run the command again: it continues after the
last complete stage.
"""

import json
import shlex
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from ... import envs
from ...policy.train.recipe import preset
from ..__main__ import known_errors
from ..publish.figures import write_result
from ..publish.manifest import ROOT
from ..shared.settings import same_settings
from ..train import ensure_data
from .dataset import peers_copy
from .launch import module, run
from .stages import SYSTEMS, VENV, Plan, System, complete, found, python, run_stages
from .systems import LANGUAGE_MODEL
from .table import OURS, metrics
from .train import Budget

# the peers' packages whose versions the manifest names
PACKAGES = ("lerobot", "torch", "torchvision", "transformers", "diffusers", "mujoco")


@dataclass(frozen=True)
class Args:
    """Flags of the comparison with peers."""

    # LeRobot data set of demonstrations, with images. Default: the preset's demonstrations, recorded where missing.
    data: Path | None = None
    # Training preset of Tandem. It also gives the default data and tasks.
    preset: str = "mt10"
    # Names of the tasks or suites to evaluate. Default: the preset's tasks.
    tasks: tuple[str, ...] = ()
    # Systems to train and evaluate. Default: all of them.
    systems: tuple[System, ...] = SYSTEMS
    # Minutes of training for each system, start-up included.
    minutes: float = 30.0
    # Episodes of evaluation for each task and system. A higher number adds to the episodes in --output.
    episodes: int = 10
    # Seed of the first evaluated layout. The default is held out: demonstrations use seeds from 0.
    first_seed: int = 1_000_000
    # Mode of Tandem: with its planner (hierarchical) or with the controller alone (flat).
    mode: Literal["hierarchical", "flat"] = "hierarchical"
    # Worker processes of the evaluation. More is faster until the cores are used up.
    workers: int = 2
    # Training steps of the short run that measures a peer's rate before its training.
    probe: int = 12
    # Batch size of the peers. 0: each peer's own.
    batch: int = 0
    # Chunks whose time is measured. The result is their median in milliseconds.
    repeats: int = 20
    # Seed of the training of every system.
    seed: int = 0
    # Folder of all runs and results. A command with the same folder continues there.
    output: Path = Path("outputs/peers")
    # Write docs/results/peers.json from all systems that are complete in --output.
    publish: bool = False
    # Print the resolved settings and stop.
    dry_run: bool = False


def main(args: Args) -> int:
    """Runs all stages of all systems, prints the table, and returns the exit code 0."""
    if args.dry_run:
        print(json.dumps(asdict(args), indent=1, default=str))
        return 0
    plan = _plan(args)
    same_settings(args.output, lasting(args))
    source = args.data or ensure_data(preset(args.preset))[0]
    copy = _prepare_peers(args, source)
    for system in args.systems:
        run_stages(plan, system, source if system == OURS else copy)
    done = complete(plan)
    table = metrics(args.output, done, args.mode, {system: found(args.output, system) for system in done})
    print(json.dumps(table, indent=1, ensure_ascii=False))
    if args.publish:
        _publish(args, plan, table)
    return 0


def _publish(args: Args, plan: Plan, table: dict[str, Any]) -> None:
    about: dict[str, Any] = {"peers": _versions(), "first_seed": args.first_seed, "mode": args.mode}
    write_result(
        "peers", "python -m tandem.scripts.peers " + shlex.join(sys.argv[1:]), table, tasks=plan.tasks, **about
    )


def lasting(args: Args) -> dict[str, Any]:
    """The settings that must be equal for all systems of one table. The number of episodes may grow."""
    free = ("systems", "episodes", "output", "publish", "dry_run")
    return {key: value for key, value in asdict(args).items() if key not in free}


def _plan(args: Args) -> Plan:
    return Plan(
        args.output, envs.resolve(args.tasks or preset(args.preset).tasks), args.preset, args.mode,
        Budget(args.minutes, args.probe, args.batch, args.seed), args.episodes, args.first_seed, args.workers,
        args.repeats,
    )  # fmt: skip


def _prepare_peers(args: Args, source: Path) -> Path:
    """Sets up the peers' environment, their copy of the data and SmolVLA's language model. Returns the copy."""
    copy, model = args.output / "data", args.output / LANGUAGE_MODEL
    if set(args.systems) <= {OURS}:
        return copy
    if not (VENV / ".ready").exists():
        subprocess.run(["bash", str(ROOT / "scripts" / "peers" / "setup.sh")], check=True)
    peers_copy(source, copy)
    if "smolvla" in args.systems and not (model / "config.json").exists():
        run(module(python("smolvla"), "smolvlm", str(copy), str(model)), args.output / "smolvlm.log", args.output)
    return copy


def _versions() -> dict[str, Any]:
    """Versions of the packages in the peers' environment that affect its figures. Empty without the environment."""
    if not VENV.exists():
        return {}
    names = "from importlib.metadata import version; import json, sys; "
    code = names + "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    done = subprocess.run(
        [str(python("act")), "-c", code, *PACKAGES], capture_output=True, encoding="utf-8", check=True
    )
    return dict(json.loads(done.stdout))


if __name__ == "__main__":
    # raises SystemExit, on which launch.py ends its child processes
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main(tyro.cli(Args, description=__doc__)))
    except (OSError, ValueError) as error:
        if not isinstance(error, (OSError, *known_errors())):
            raise
        print(f"peers: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
