"""Success before and after reinforcement learning: methods, tasks and seeds, each a `tandem rl` and a `tandem eval`.

Every run and evaluation leaves a folder in --output. The same command goes on after an interruption, and with more
--minutes so do runs that are done, with more --episodes evaluations. Of the methods in --together one policy learns all
tasks at once. Of the others each task has a run of its own.
"""

import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .... import envs
from ....data.files import json_bytes, read_json, write_atomic
from ...publish.figures import result_file
from ...publish.manifest import this_command
from ...shared.errors import UserError
from ...shared.settings import same_settings
from .record import DONE, EVALUATION, Record, evaluated, merged, read_record
from .rows import Rows, curves, rows, suite
from .speed import speed

Method = Literal["dsrl", "recap", "ppo", "grpo"]


@dataclass(frozen=True)
class Args:
    """Flags of `tandem bench rl`."""

    checkpoint: Path = Path("outputs/train/few")
    tasks: tuple[str, ...] = ("push", "pick_place", "stack")
    methods: tuple[Method, ...] = ("dsrl", "recap", "ppo")
    seeds: int = 3  # of training
    first_seed: int = 0  # of these; what was published of others stays
    minutes: tuple[float, ...] = (60.0,)  # of each run: one for all methods, or one for each
    episodes: int = 50  # of each evaluation and task, at least
    together: tuple[Method, ...] = ()  # methods of which one run learns all tasks
    workers: int = 2
    output: Path = Path("outputs/rl/bench")
    result: Literal["rl", "rl_suite"] = "rl"  # rl: every task by itself, and rl_speed; rl_suite: their mean, one method
    publish: bool = False  # write docs/results/RESULT.json
    dry_run: bool = False


def measure(args: Args) -> Rows:
    """Runs the measurement and returns its figures by name."""
    return rows(_records(args))


def _records(args: Args) -> list[Record]:
    """Of all runs and evaluations, which are made where they are not there yet."""
    from ....policy.checkpoint import store

    _refuse_nonsense(args)
    tasks, digest = envs.resolve(args.tasks), store.digest(args.checkpoint)
    minutes = minutes_of(args)
    same_settings(args.output, {"checkpoint": digest, "workers": args.workers})
    before = _evaluated(args, args.checkpoint, tasks, args.output / "before")
    found = []
    for group, method, folder, seed in runs_of(args):
        _learn(args, group, method, minutes[method], seed, folder)
        found.append(read_record(folder, before, group, minutes[method], digest, this_command(), method, seed))
    return found


def _refuse_nonsense(args: Args) -> None:
    if unknown := sorted(set(args.together) - set(args.methods)):
        raise UserError(f"--together names {unknown[0]}, which is not in --methods")
    if args.result == "rl_suite" and len(args.methods) != 1:
        raise UserError(f"--result rl_suite is about one method, not {' '.join(args.methods)}; choose with --methods")


def runs_of(args: Args) -> list[tuple[tuple[str, ...], Method, Path, int]]:
    """Tasks, method, folder and seed of every run: all methods and tasks have one seed before any has two."""
    tasks, found = envs.resolve(args.tasks), []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for method in args.methods:
            together = method in args.together
            for group in [tasks] if together else [(task,) for task in tasks]:
                name = f"{'together' if together else group[0]}_{method}_{seed}"
                found.append((group, method, args.output / name, seed))
    return found


def minutes_of(args: Args) -> dict[Method, float]:
    if len(args.minutes) not in (1, len(args.methods)):
        counts = f"{len(args.minutes)} numbers for {len(args.methods)} methods"
        raise UserError(f"--minutes has {counts}; give one, or one each")
    each = args.minutes * len(args.methods) if len(args.minutes) == 1 else args.minutes
    return dict(zip(args.methods, each, strict=True))


def results(args: Args, measured: Rows, folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """What is published, by name, into `folder`. What it holds of other seeds, tasks and methods stays."""
    if args.result == "rl_suite":
        return {"rl_suite": suite({task: row[args.methods[0]] for task, row in measured.items()})}
    kept = _kept(args, folder)
    runs = {"_".join((*record.row, str(record.seed))): record.as_dict() for record in kept}
    faster = speed(_of_speed(kept)) if "recap" in args.methods else {}  # of others it has nothing new to say
    return {"rl_runs": runs, "rl": rows(kept), "rl_curves": curves(kept)} | ({"rl_speed": faster} if faster else {})


def commands(args: Args, folder: Path | None = None) -> dict[str, str]:
    """What each of them comes from."""
    if args.result == "rl_suite":
        return {"rl_suite": this_command()}
    kept = _kept(args, folder)
    everything = _commands(kept)
    return {"rl_runs": everything, "rl": everything, "rl_curves": everything, "rl_speed": _commands(_of_speed(kept))}


def _commands(records: list[Record]) -> str:
    return "; ".join(sorted({record.command for record in records}))


def _of_speed(records: list[Record]) -> list[Record]:
    """Those of recap's rows that have the most training seeds."""
    ours = [record for record in records if record.method == "recap"]
    seeds = Counter(record.row for record in ours)
    return [record for record in ours if seeds[record.row] == max(seeds.values())]


def _kept(args: Args, folder: Path | None) -> list[Record]:
    file = result_file("rl_runs", folder)
    published = read_json(file)["metrics"] if file.exists() else {}
    return merged([Record.from_dict(raw) for raw in published.values()], _records(args))


def _learn(args: Args, tasks: tuple[str, ...], method: str, minutes: float, seed: int, folder: Path) -> None:
    """Learns and evaluates where that is not done yet."""
    done = folder / DONE
    _same_tasks(folder, tasks)
    _reopen(folder, minutes)
    if not done.exists():
        flags = ["--checkpoint", str(args.checkpoint), "--tasks", *tasks, "--seed", str(seed)]
        flags += ["--minutes", str(minutes), "--steps", str(10**9), "--workers", str(args.workers)]
        _tandem("rl", method, *flags, "--output", str(folder), *(["--resume"] if folder.exists() else []))
        write_atomic(done, json_bytes(_cost(folder) | {"given": minutes}))
    _evaluated(args, folder, tasks, folder / EVALUATION)


def _same_tasks(folder: Path, tasks: tuple[str, ...]) -> None:
    """UserError where the run learned others: together they have one folder."""
    from ....policy.rl.shared.learning_run import ASKED

    learned = read_json(file)["tasks"] if (file := folder / ASKED).exists() else list(tasks)
    if learned != list(tasks):
        raise UserError(f"{folder} learned {' '.join(learned)}, not {' '.join(tasks)}; choose another --output")


def _reopen(folder: Path, minutes: float) -> None:
    """Lays aside what a run came to in fewer minutes, so that it goes on. UserError where it had more."""
    if not (folder / DONE).exists():
        return
    given = float(read_json(folder / DONE)["given"])
    if minutes < given:
        raise UserError(f"{folder} learned for --minutes {given:g}, not {minutes:g}; choose another --output")
    if minutes > given:
        for name in (EVALUATION, DONE):  # the mark last: killed in between, it is laid aside again
            if (folder / name).exists():
                (folder / name).rename(folder / f"{given:g}_minutes_{name}")


def _cost(folder: Path) -> dict[str, Any]:
    from ....policy.checkpoint import store

    made = store.progress(folder)["rl"]
    return {"env_steps": made["env_steps"], "minutes": made["seconds"] / 60, "settings": made["settings"]}


def _evaluated(args: Args, checkpoint: Path, tasks: tuple[str, ...], folder: Path) -> Path:
    known = evaluated(folder)
    if any(known.get(task, 0) < args.episodes for task in tasks):
        tasks, episodes = tuple(dict.fromkeys((*known, *tasks))), max(args.episodes, *known.values(), 0)
        flags = ["--checkpoint", str(checkpoint), "--tasks", *tasks, "--episodes", str(episodes)]
        flags += ["--modes", "flat", "--controls", "normal", "--workers", str(args.workers), "--output", str(folder)]
        _tandem("eval", *flags, *(["--resume"] if folder.exists() else []))
    return folder


def _tandem(*arguments: str) -> None:
    print("tandem", shlex.join(arguments), flush=True)
    done = subprocess.run([sys.executable, "-m", "tandem.scripts", *arguments])
    if done.returncode:
        raise UserError(f"tandem {arguments[0]} ended with exit code {done.returncode}; run again to go on")
