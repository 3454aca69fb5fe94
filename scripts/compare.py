"""Say whether two evaluations differ: `tandem compare A B`, paired by task, seed, mode and control where possible."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from ..policy.statistics import Comparison, Proportion, paired, unpaired
from .errors import UserError
from .manifest import this_command
from .results import write_result


@dataclass(frozen=True)
class Args:
    a: Annotated[Path, tyro.conf.Positional]  # results.json, or the folder that holds it
    b: Annotated[Path, tyro.conf.Positional]
    mode: str = "hierarchical"  # which mode of A
    mode_b: str | None = None  # which mode of B; default: the same
    control: str = "normal"
    result: str | None = None  # also write docs/results/<name>.json, with A as before and B as after
    dry_run: bool = False  # print the resolved settings and stop


Outcomes = dict[tuple[str, int], bool]


def main(args: Args) -> int:
    a = load(args.a, args.mode, args.control)
    b = load(args.b, args.mode_b or args.mode, args.control)
    table = Table(title=f"A = {args.a}, B = {args.b}")
    for heading in ("task", "A", "B", "B - A, 95%", "verdict"):
        table.add_column(heading)
    for task in dict.fromkeys(task for task, _ in a if any(task == other for other, _ in b)):
        mine, theirs = _of(a, task), _of(b, task)
        table.add_row(task, *row(mine, theirs))
    table.add_row("all", *row(a, b))
    Console().print(table)
    common = len(a.keys() & b.keys())
    if 0 < common < max(len(a), len(b)):
        print(f"paired on the {common} episodes of both; A alone has {len(a) - common}, B alone {len(b) - common}")
    if args.result:
        about: dict[str, Any] = {name: _made_with(path) for name, path in (("before", args.a), ("after", args.b))}
        write_result(args.result, this_command(), published(args, a, b), **about)
    return 0


def published(args: Args, a: Outcomes, b: Outcomes) -> dict[str, Any]:
    """Success before and after over all episodes, the difference with its interval, and the ratio of training times."""
    difference, before, after = compare(a, b), read(args.a)["train_minutes"], read(args.b)["train_minutes"]
    success = {"success_before": _proportion(a).value, "success_after": _proportion(b).value}
    change = {
        "success_change": difference.difference,
        "success_change_low": difference.low,
        "success_change_high": difference.high,
        "verdict": difference.verdict,
        "episodes": len(b),
    }
    if before is None or after is None:  # an expert or a random agent was not trained
        return success | change
    return success | change | {"minutes_before": before, "minutes_after": after, "time_ratio": after / before}


def _made_with(path: Path) -> dict[str, Any]:
    return {key: read(path)["manifest"].get(key) for key in ("code", "checkpoint")}


def read(path: Path) -> dict[str, Any]:
    """The results.json that `path`, a file or its folder, means."""
    file = path / "results.json" if path.is_dir() else path
    try:
        results = json.loads(file.read_text())
        return {key: results[key] for key in ("episodes", "manifest")} | {"train_minutes": results.get("train_minutes")}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file} is no evaluation ({error}); pass the results.json of `tandem eval`") from error


def load(path: Path, mode: str, control: str) -> Outcomes:
    chosen = {
        (e["task"], e["seed"]): bool(e["success"])
        for e in read(path)["episodes"]
        if e["mode"] == mode and e["control"] == control and e["status"] in ("done", "sim_error")
    }
    if not chosen:
        raise UserError(f"{path} has no finished episodes with mode {mode!r} and control {control!r}")
    return chosen


def compare(a: Outcomes, b: Outcomes) -> Comparison:
    if both := sorted(a.keys() & b.keys()):
        return paired([a[k] for k in both], [b[k] for k in both])
    return unpaired(_proportion(a), _proportion(b))


def row(a: Outcomes, b: Outcomes) -> tuple[str, str, str, str]:
    c = compare(a, b)
    spread = f"{100 * c.difference:+.0f} [{100 * c.low:+.0f}, {100 * c.high:+.0f}] points"
    return str(_proportion(a)), str(_proportion(b)), spread, f"{c.verdict} · {c.test}"


def _of(outcomes: Outcomes, task: str) -> Outcomes:
    return {key: value for key, value in outcomes.items() if key[0] == task}


def _proportion(outcomes: Outcomes) -> Proportion:
    return Proportion(sum(outcomes.values()), len(outcomes))
