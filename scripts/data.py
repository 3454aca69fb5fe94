"""Check, replay, repair or describe a recorded data set."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import envs
from ..data.check import check as find_problems
from ..data.contract import entry_name
from ..data.kinds import action_kinds
from ..data.reader import Dataset
from ..data.rename import parse_rename
from ..data.repair import repair as repair_files
from .shared.errors import UserError


@dataclass(frozen=True)
class Check:
    """Decode every image and look at every value: out of range, NaN, constant, gaps, black or repeated pictures. Exit
    code 1 if something is wrong."""

    root: Annotated[Path, tyro.conf.Positional]
    rename: tuple[str, ...] = ()  # THEIR_NAME=OUR_NAME, e.g. actions=action; none: the names are ours
    dry_run: bool = False


@dataclass(frozen=True)
class Replay:
    """Run recorded actions from the recorded first state: they must succeed as recorded. Exit code 1 if not."""

    root: Annotated[Path, tyro.conf.Positional]
    episodes: int = 20  # how many, spread evenly over the data set; 0: all
    rename: tuple[str, ...] = ()  # THEIR_NAME=OUR_NAME, e.g. actions=action; none: the names are ours
    dry_run: bool = False


@dataclass(frozen=True)
class Repair:
    """Keep the longest verified run of episodes of a damaged recording. Move the rest to quarantine/."""

    root: Annotated[Path, tyro.conf.Positional]
    dry_run: bool = False


@dataclass(frozen=True)
class Info:
    """Features, cameras, sizes, rate, ranges, kinds of action, episodes and tasks."""

    root: Annotated[Path, tyro.conf.Positional]
    rename: tuple[str, ...] = ()  # THEIR_NAME=OUR_NAME, e.g. actions=action; none: the names are ours
    dry_run: bool = False


Args = (
    Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Replay, tyro.conf.subcommand("replay")]
    | Annotated[Repair, tyro.conf.subcommand("repair")]
    | Annotated[Info, tyro.conf.subcommand("info")]
)


def main(args: Check | Replay | Repair | Info) -> int:
    """Runs the command and returns its exit code."""
    if not args.root.is_dir():
        raise UserError(f"no data set at {args.root}; pass the --output folder of `tandem collect`")
    verbs: dict[type, Callable[[Any], int]] = {Check: check, Replay: replay, Repair: repair, Info: info}
    return verbs[type(args)](args)


def check(args: Check) -> int:
    """Prints what is wrong with a data set. Exit code 1 where there are errors."""
    findings = find_problems(args.root, parse_rename(args.rename), progress=True)
    table = Table("severity", "feature", "finding")
    for finding in findings:  # texts of the data set: brackets in them are no markup
        table.add_row(*(Text(cell) for cell in (finding.severity, finding.key, finding.what)))
    Console().print(table if findings else Text(f"{args.root}: nothing wrong found"))
    return int(any(finding.severity == "error" for finding in findings))


def replay(args: Replay) -> int:
    """Acts what was recorded. Exit code 1 where an episode does not succeed as recorded."""
    dataset = Dataset(args.root, parse_rename(args.rename))
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
    """Repairs a data set and prints what was kept."""
    print(repair_files(args.root))
    return 0


def info(args: Info) -> int:
    """Prints what a data set holds."""
    dataset = Dataset(args.root, parse_rename(args.rename))
    contract, columns = dataset.contract, [dataset.columns(e) for e in range(len(dataset.episodes))]
    origin = "recorded elsewhere" if dataset.foreign else f"contract {contract.digest()[:12]}"
    frames, hours = len(dataset), len(dataset) / contract.fps / 3600
    print(f"{args.root}: {len(dataset.episodes)} episodes, {frames} frames, {hours:.2f} hours at {contract.fps:g} Hz")
    print(f"robot {contract.robot}; {origin}")
    table = Table("feature", "dtype", "shape", "range found")
    for key, feature in contract.features.items():
        found = [c[key] for c in columns if key in c]
        table.add_row(
            *(Text(cell) for cell in (key, feature.dtype, "x".join(map(str, feature.shape)) or "-", _extent(found)))
        )
    Console().print(table)
    _show_actions(dataset, columns)
    counts = Counter(str(row.get("sim/task") or "; ".join(row.get("tasks") or ["?"])) for row in dataset.episodes)
    print("\n".join(f"  {task}: {count} episodes" for task, count in counts.items()))
    return 0


def _extent(found: list[np.ndarray]) -> str:
    if not found:
        return ""
    return f"{min(float(x.min()) for x in found):.4g} .. {max(float(x.max()) for x in found):.4g}"


def _show_actions(dataset: Dataset, columns: list[dict[str, np.ndarray]]) -> None:
    """Unit, kind and range of every entry of an action."""
    feature = dataset.contract.features.get("action")
    if feature is None or not columns or "observation.state" not in columns[0]:
        return
    state, action = (np.concatenate([c[key] for c in columns]) for key in ("observation.state", "action"))
    last = np.concatenate([np.arange(len(c["action"])) == len(c["action"]) - 1 for c in columns])
    table = Table("action", "unit", "kind", "range found")
    for i, kind in enumerate(feature.kind or action_kinds(dataset.contract, state, action, last)):
        unit = feature.unit[i] if isinstance(feature.unit, tuple) else feature.unit or ""
        table.add_row(*(Text(cell) for cell in (entry_name("action", feature, i), unit, kind, _extent([action[:, i]]))))
    Console().print(table)
