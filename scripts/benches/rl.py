"""Success before and after reinforcement learning: methods, tasks and seeds, each a `tandem rl` and a `tandem eval`.

Every run and evaluation leaves a folder in --output; the same command goes on after an interruption. Of the methods in
--together one policy learns all tasks at once; of the others each task has a run of its own.
"""

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

import envs
from data.layout import json_bytes, write_atomic
from scripts.errors import UserError
from scripts.settings import same_settings

Method = Literal["dsrl", "recap", "ppo", "grpo"]
Key = tuple[str, int]  # task and seed of an episode


@dataclass(frozen=True)
class Args:
    checkpoint: Path = Path("outputs/train/few")
    tasks: tuple[str, ...] = ("push", "pick_place", "stack")
    methods: tuple[Method, ...] = ("dsrl", "recap", "ppo")
    seeds: int = 3  # of training, from 0
    minutes: tuple[float, ...] = (60.0,)  # of each run: one for all methods, or one for each
    episodes: int = 50  # of each evaluation and task
    together: tuple[Method, ...] = ()  # methods of which one run learns all tasks
    workers: int = 2
    output: Path = Path("outputs/rl/bench")
    result: Literal["rl", "rl_suite"] = "rl"  # rl: every task by itself, and rl_speed; rl_suite: their mean, one method
    publish: bool = False  # write docs/results/RESULT.json
    dry_run: bool = False


def measure(args: Args) -> dict[str, Any]:
    from policy import checkpoint

    tasks, digest = envs.resolve(args.tasks), checkpoint.digest(args.checkpoint)
    minutes = minutes_of(args)
    named = {f"minutes of {method}": value for method, value in minutes.items()}
    same_settings(args.output, {"checkpoint": digest, "episodes": args.episodes, "workers": args.workers} | named)
    before = _evaluated(args, args.checkpoint, tasks, args.output / "before")
    found: dict[str, dict[str, list[Path]]] = {task: {} for task in tasks}  # task -> method -> a run per seed
    for group, method, folder, seed in runs_of(args):
        _learn(args, group, method, minutes[method], seed, folder)
        for task in group:
            found[task].setdefault(method, []).append(folder)
    return {
        task: {method: gain(before, task, runs) for method, runs in methods.items()} for task, methods in found.items()
    }


def runs_of(args: Args) -> list[tuple[tuple[str, ...], Method, Path, int]]:
    """Tasks, method, folder and seed of every run: all methods and tasks have one seed before any has two."""
    tasks, found = envs.resolve(args.tasks), []
    for seed in range(args.seeds):
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


def results(args: Args, metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is published, by name."""
    if args.result == "rl_suite":
        return {"rl_suite": suite({task: row[args.methods[0]] for task, row in metrics.items()})}
    shown = {"rl": metrics, "rl_curves": learning_curves(args)}
    rows = [row["recap"] for row in metrics.values() if "recap" in row and row["recap"]["length_before"]]
    return shown | ({"rl_speed": speed(rows)} if rows else {})


def speed(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Means over tasks of control steps to success, and of success."""
    length = {name: sum(row[name] for row in rows) / len(rows) for name in ("length_before", "length_after")}
    success = {f"success_{name}": sum(row[name] for row in rows) / len(rows) for name in ("before", "after")}
    return length | {"change": length["length_after"] / length["length_before"] - 1} | success


def learning_curves(args: Args) -> dict[str, dict[str, Any]]:
    """{task or "together": {method: {environment steps: success with its interval}}}, over the training seeds; while a
    policy learns it explores, so that this is less than what it reaches."""
    runs: dict[str, dict[str, list[Path]]] = {}
    for _, method, folder, seed in runs_of(args):
        group = folder.name.removesuffix(f"_{method}_{seed}")
        runs.setdefault(group, {}).setdefault(method, []).append(folder / "log.jsonl")
    return {group: {method: curve(logs) for method, logs in methods.items()} for group, methods in runs.items()}


def curve(logs: list[Path], points: int = 20) -> dict[str, Any]:
    """The mean of several runs at steps that all of them reached, with Wilson's interval over their last episodes."""
    from policy.statistics import Proportion

    seen = [[json.loads(line) for line in log.read_text().splitlines()] for log in logs]
    lines = [[(row["step"], row["success"], row["n"]) for row in rows if row["stage"] == "rl"] for rows in seen]
    if not (lines := [line for line in lines if line]):  # runs too short for a point
        return {}
    end = min(line[-1][0] for line in lines)
    found = {}
    for step in np.linspace(end / points, end, points):
        shares, counts = np.transpose([_at(step, *np.transpose(line)) for line in lines])
        count = int(counts.sum())
        found[str(int(step))] = Proportion(round(shares.mean() * count), count).as_dict()
    return found


def _at(step: float, steps: np.ndarray, shares: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    return float(np.interp(step, steps, shares)), float(np.interp(step, steps, counts))


def gain(before: Path, task: str, runs: list[Path]) -> dict[str, Any]:
    """One task: all training seeds beside the policy before on the same layouts.

    `low` and `high` are the gain's 95% interval over layouts and training seeds; `higher` and `lower` count the seeds
    of which `tandem compare` calls the change significant; lengths are those of the layouts that succeed both before
    and after.
    """
    from policy.statistics import paired

    old, found = outcomes(before, task), [outcomes(run / "eval", task) for run in runs]
    both_ran = [[(e, mine[key]) for key, e in old.items() if key in mine] for mine in found]
    changes = [paired([a["success"] for a, _ in pairs], [b["success"] for _, b in pairs]) for pairs in both_ran]
    clear = [change.difference for change in changes if change.significant]
    pairs = [pair for run in both_ran for pair in run]
    both = [(a["steps"], b["steps"]) for a, b in pairs if a["success"] and b["success"]]
    everywhere = [key for key in old if all(key in mine for mine in found)]
    before_each = np.array([old[key]["success"] for key in everywhere], float)
    after_each = np.array([[mine[key]["success"] for key in everywhere] for mine in found], float)
    low, high = interval(after_each - before_each)
    made = [json.loads((run / "learned.json").read_text()) for run in runs]
    _alike(runs, made)
    return {
        "before": before_each.mean(),
        "after": after_each.mean(),
        "gain": after_each.mean() - before_each.mean(),
        "low": low,
        "high": high,
        "each": "/".join(f"{100 * sum(b['success'] for b in mine.values()) / len(mine):.0f}" for mine in found),
        "higher": sum(difference > 0 for difference in clear),
        "lower": sum(difference < 0 for difference in clear),
        "length_before": sum(a for a, _ in both) / max(1, len(both)),
        "length_after": sum(b for _, b in both) / max(1, len(both)),
        "env_steps": sum(m["env_steps"] for m in made) // len(made),
        "minutes": round(sum(m["minutes"] for m in made) / len(made), 1),
        "seeds": len(runs),
        "code": "/".join(sorted({json.loads((run / "made_with.json").read_text())["code"][:7] for run in runs})),
    }


def _alike(runs: list[Path], made: list[dict[str, Any]]) -> None:
    for run, other in zip(runs, made, strict=True):
        if other["settings"] != made[0]["settings"]:
            raise UserError(f"{run} learned with other settings than {runs[0]}; delete one of them and run again")


def interval(changes: np.ndarray, draws: int = 4000) -> tuple[float, float]:
    """changes (seeds, layouts) -> the mean's 95% bootstrap interval, drawing seeds and layouts again."""
    rng, (S, L) = np.random.default_rng(0), changes.shape
    means = [changes[rng.integers(S, size=S)][:, rng.integers(L, size=L)].mean() for _ in range(draws)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def suite(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """task -> gain: the mean, every task, and how many fell significantly in any run."""
    mean = {name: sum(row[name] for row in rows.values()) / len(rows) for name in ("before", "after")}
    return mean | {"tasks_lower": sum(row["lower"] > 0 for row in rows.values()), "tasks": rows}


def outcomes(folder: Path, task: str) -> dict[Key, dict[str, Any]]:
    found = {key: episode for key, episode in _episodes(folder).items() if key[0] == task}
    if not found:
        raise UserError(f"{folder} has no episode of {task}; choose another --output")
    return found


def _episodes(folder: Path) -> dict[Key, dict[str, Any]]:
    episodes = json.loads((folder / "results.json").read_text())["episodes"]
    return {(e["task"], e["seed"]): e for e in episodes if e["status"] in ("done", "sim_error")}


def _learn(args: Args, tasks: tuple[str, ...], method: str, minutes: float, seed: int, folder: Path) -> None:
    """Learns and evaluates where that is not done yet."""
    done = folder / "learned.json"
    if not done.exists():
        flags = ["--checkpoint", str(args.checkpoint), "--tasks", *tasks, "--method", method, "--seed", str(seed)]
        flags += ["--minutes", str(minutes), "--steps", str(10**9), "--workers", str(args.workers)]
        _tandem("rl", *flags, "--output", str(folder), *(["--resume"] if folder.exists() else []))
        write_atomic(done, json_bytes(_cost(folder)))
    _evaluated(args, folder, tasks, folder / "eval")


def _cost(folder: Path) -> dict[str, Any]:
    from policy import checkpoint

    made = checkpoint.progress(folder)["rl"]
    return {"env_steps": made["env_steps"], "minutes": made["seconds"] / 60, "settings": made["settings"]}


def _evaluated(args: Args, checkpoint: Path, tasks: tuple[str, ...], folder: Path) -> Path:
    if not (folder / "results.json").exists():
        flags = ["--checkpoint", str(checkpoint), "--tasks", *tasks, "--episodes", str(args.episodes)]
        flags += ["--modes", "flat", "--controls", "normal", "--workers", str(args.workers), "--output", str(folder)]
        _tandem("eval", *flags, *(["--resume"] if folder.exists() else []))
    return folder


def _tandem(*arguments: str) -> None:
    print("tandem", shlex.join(arguments), flush=True)
    done = subprocess.run([sys.executable, "-m", "scripts", *arguments])
    if done.returncode:
        raise UserError(f"tandem {arguments[0]} ended with exit code {done.returncode}; run again to go on")
