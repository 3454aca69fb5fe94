"""Train and evaluate LeRobot's policies and Tandem on the same data, minutes, machine and seeds, and write the table.

`python -m tandem.scripts.peers --publish` does everything: demonstrations, the peers' environment, training, measuring,
evaluating. Each stage leaves a file in --output. Run the command again after an interruption and it goes on there.
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

PACKAGES = ("lerobot", "torch", "torchvision", "transformers", "diffusers", "mujoco")  # of the peers, in the manifest


@dataclass(frozen=True)
class Args:
    """Flags of this program."""

    data: Path | None = None  # LeRobot data set of demonstrations; none: record the preset's
    preset: str = "mt10"  # of `tandem train`
    tasks: tuple[str, ...] = ()  # task or suite names to evaluate; none: the preset's
    systems: tuple[System, ...] = SYSTEMS
    minutes: float = 30.0  # of training, each
    episodes: int = 10  # per task, each
    first_seed: int = 1_000_000  # held out: demonstrations use seeds from 0
    mode: Literal["hierarchical", "flat"] = "hierarchical"  # of Tandem
    workers: int = 2  # processes of the evaluation
    probe: int = 12  # steps of the short run that measures a peer's rate
    batch: int = 0  # of the peers; 0: each one's own
    repeats: int = 20  # chunks whose milliseconds are measured
    seed: int = 0  # of training
    output: Path = Path("outputs/peers")
    publish: bool = False  # write docs/results/peers.json from all systems that are complete in --output
    dry_run: bool = False  # print the resolved settings and stop


def main(args: Args) -> int:
    """Runs this program and returns its exit code."""
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
    """The settings that all that comes into one table shares. More episodes are added to those that are there."""
    free = ("systems", "episodes", "output", "publish", "dry_run")
    return {key: value for key, value in asdict(args).items() if key not in free}


def _plan(args: Args) -> Plan:
    return Plan(
        args.output, envs.resolve(args.tasks or preset(args.preset).tasks), args.preset, args.mode,
        Budget(args.minutes, args.probe, args.batch, args.seed), args.episodes, args.first_seed, args.workers,
        args.repeats,
    )  # fmt: skip


def _prepare_peers(args: Args, source: Path) -> Path:
    """The peers' environment, their copy of the data, and SmolVLA's language model. Returns the copy."""
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
    """Of the packages in the peers' environment that decide its figures."""
    if not VENV.exists():
        return {}
    names = "from importlib.metadata import version; import json, sys; "
    code = names + "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    done = subprocess.run(
        [str(python("act")), "-c", code, *PACKAGES], capture_output=True, encoding="utf-8", check=True
    )
    return dict(json.loads(done.stdout))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started ends too (launch.py)
    try:
        sys.exit(main(tyro.cli(Args, description=__doc__)))
    except (OSError, ValueError) as error:
        if not isinstance(error, (OSError, *known_errors())):
            raise
        print(f"peers: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
