"""Check, replay, repair or describe a recorded data set."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from .. import envs
from ..data.check import check as find_problems
from ..data.reader import Dataset
from ..data.repair import repair as repair_files
from .errors import UserError


@dataclass(frozen=True)
class Check:
    """Look for values out of range, NaN, constant entries, gaps and wrong shapes. Exit code 1 if something is wrong."""

    root: Annotated[Path, tyro.conf.Positional]
    dry_run: bool = False


@dataclass(frozen=True)
class Replay:
    """Run recorded actions from the recorded first state: they must succeed as recorded. Exit code 1 if not."""

    root: Annotated[Path, tyro.conf.Positional]
    episodes: int = 20  # how many, spread evenly over the data set; 0: all
    dry_run: bool = False


@dataclass(frozen=True)
class Repair:
    """Keep the longest verified run of episodes of a damaged recording; move the rest to quarantine/."""

    root: Annotated[Path, tyro.conf.Positional]
    dry_run: bool = False


@dataclass(frozen=True)
class Info:
    """Episodes, frames, tasks and the contract."""

    root: Annotated[Path, tyro.conf.Positional]
    dry_run: bool = False


Args = (
    Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Replay, tyro.conf.subcommand("replay")]
    | Annotated[Repair, tyro.conf.subcommand("repair")]
    | Annotated[Info, tyro.conf.subcommand("info")]
)


def main(args: Check | Replay | Repair | Info) -> int:
    if not args.root.is_dir():
        raise UserError(f"no data set at {args.root}; pass the --output folder of `tandem collect`")
    verbs: dict[type, Callable[[Any], int]] = {Check: check, Replay: replay, Repair: repair, Info: info}
    return verbs[type(args)](args)


def check(args: Check) -> int:
    findings = find_problems(args.root)
    table = Table("severity", "feature", "finding")
    for finding in findings:
        table.add_row(finding.severity, finding.key, finding.what)
    Console().print(table if findings else f"{args.root}: nothing wrong found")
    return int(any(finding.severity == "error" for finding in findings))


def replay(args: Replay) -> int:
    dataset = Dataset(args.root)
    total = len(dataset.episodes)
    step = max(1, total // args.episodes) if args.episodes else 1
    chosen = list(range(0, total, step))[: args.episodes or total]
    wrong = [message for episode in chosen if (message := replay_episode(dataset, episode))]
    print("\n".join(wrong))
    print(f"{len(chosen) - len(wrong)} of {len(chosen)} episodes replayed as recorded")
    return int(bool(wrong))


def replay_episode(dataset: Dataset, episode: int) -> str:
    """An empty string where the episode replays as recorded, else what differs."""
    row: dict[str, Any] = dataset.episodes[episode]
    if "sim/task" not in row:
        where = f"{dataset.root}: episode {episode}"
        raise UserError(f"{where} names no task and no seed; only recordings of Tandem can be replayed")
    columns = dataset.columns(episode)
    env = envs.make(str(row["sim/task"]), cameras=())
    obs, _ = env.reset(seed=int(row["sim/seed"]))
    name = f"episode {episode} ({row['sim/task']}, seed {row['sim/seed']})"
    if not (obs["observation.state"] == columns["observation.state"][0]).all():
        return f"{name}: the first state differs from the recorded one; the environment has changed since"
    success = False
    for action in columns["action"]:
        info = env.step(action)[-1]
        success |= bool(info["success"])
    recorded = bool(row["sim/success"])
    return "" if success == recorded else f"{name}: recorded success {recorded}, replayed {success}"


def repair(args: Repair) -> int:
    print(repair_files(args.root))
    return 0


def info(args: Info) -> int:
    dataset = Dataset(args.root)
    tasks: dict[str, int] = {}
    for row in dataset.episodes:
        name = str(row.get("sim/task", "?"))
        tasks[name] = tasks.get(name, 0) + 1
    print(
        f"{args.root}: {len(dataset.episodes)} episodes, {len(dataset)} frames; "
        f"contract {dataset.contract.digest()[:12]}"
    )
    print("\n".join(f"  {task}: {count} episodes" for task, count in tasks.items()))
    return 0
