"""Say whether two evaluations differ: `tandem compare A B`, paired by task, seed, mode and control where possible.

Pairs are episodes that began in the same state of the simulator: the same seed is another layout where the code or the
package of a task changed in between. Success is true or false; episodes that failed to run count as neither.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..policy.rollout import MEASURED
from ..policy.statistics import Comparison, Proportion, paired, unpaired
from .errors import UserError
from .manifest import this_command
from .results import write_result
from .results_file import read_results

TASK = 21  # characters of a task's name that the table has room for in 80 columns


@dataclass(frozen=True)
class Args:
    a: Annotated[Path, tyro.conf.Positional]  # results.json, or the folder that holds it
    b: Annotated[Path, tyro.conf.Positional]
    mode: str = "hierarchical"  # which mode of A
    mode_b: str | None = None  # which mode of B; default: the same
    control: str = "normal"
    result: str | None = None  # also write docs/results/<name>.json, with A as before and B as after
    dry_run: bool = False  # print the resolved settings and stop


Outcomes = dict[tuple[str, int, str], bool]  # by task, seed and the digest of the simulator's first state


def main(args: Args) -> int:
    a = load(args.a, args.mode, args.control)
    b = load(args.b, args.mode_b or args.mode, args.control)
    Console(width=80).print(f"A = {args.a}\nB = {args.b}\nsuccess in %, with 95% intervals", markup=False)
    Console(width=80).print(table(a, b))
    for task in tasks(a, b):
        print(_said(task, compare(_of(a, task), _of(b, task))))
    print(_said("all", compare(a, b)))
    for line in left_out(a, b):
        print(line)
    if args.result:
        about: dict[str, Any] = {name: _made_with(path) for name, path in (("before", args.a), ("after", args.b))}
        write_result(args.result, this_command(), published(args, a, b), **about)
    return 0


def load(path: Path, mode: str, control: str) -> Outcomes:
    """Successes of what was measured; says what was not."""
    chosen = [e for e in read_results(path)["episodes"] if e["mode"] == mode and e["control"] == control]
    measured = [e for e in chosen if e["status"] in MEASURED]
    if not measured:
        raise UserError(f"{path} has no finished episodes with mode {mode!r} and control {control!r}")
    if others := Counter(e["status"] for e in chosen if e["status"] not in MEASURED):
        words = ", ".join(f"{count} {status}" for status, count in sorted(others.items()))
        print(f"{path}: {words} of {len(chosen)} episodes; they count as neither success nor failure")
    return {(e["task"], e["seed"], e.get("first_state", "")): e["success"] for e in measured}


def compare(a: Outcomes, b: Outcomes) -> Comparison:
    if both := sorted(a.keys() & b.keys()):
        return paired([a[k] for k in both], [b[k] for k in both])
    return unpaired(_proportion(a), _proportion(b))


def tasks(a: Outcomes, b: Outcomes) -> list[str]:
    """Of both."""
    others = {task for task, *_ in b}
    return [task for task in dict.fromkeys(task for task, *_ in a) if task in others]


def table(a: Outcomes, b: Outcomes) -> Table:
    """One line a task, 80 columns wide."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, padding=(0, 1))
    for heading in ("task", "A", "B", "B - A", "verdict"):
        shown.add_column(heading, no_wrap=True, justify="left" if heading in ("task", "verdict") else "right")
    for task in tasks(a, b):
        shown.add_row(*map(escape, (_short(task), *row(_of(a, task), _of(b, task)))))
    shown.add_row(*map(escape, ("all", *row(a, b))))
    return shown


def row(a: Outcomes, b: Outcomes) -> tuple[str, str, str, str]:
    """Successes [%], their difference in points, and the verdict in two words."""
    c = compare(a, b)
    mine, theirs = (str(_proportion(outcomes)).replace("%", "") for outcomes in (a, b))
    return mine, theirs, points(c), c.brief


def points(c: Comparison) -> str:
    """B - A with its interval, in points."""
    return f"{100 * c.difference:+.0f} [{100 * c.low:+.0f}, {100 * c.high:+.0f}]"


def left_out(a: Outcomes, b: Outcomes) -> list[str]:
    """What is not in the pairs, a line a reason."""
    pairs = a.keys() & b.keys()
    alone_a, alone_b = ({key[:2] for key in outcomes.keys() - pairs} for outcomes in (a, b))
    apart, lines = len(alone_a & alone_b), []
    if apart:
        lines.append(f"{apart} pairs differ in their first state and are left out: equal seeds, other layouts")
    if pairs and len(pairs) + apart < max(len(a), len(b)):
        only = f"A alone has {len(alone_a) - apart}, B alone {len(alone_b) - apart}"
        lines.append(f"paired on the {len(pairs)} episodes of both; {only}")
    return lines


def _said(name: str, found: Comparison) -> str:
    return f"{name}: {found.verdict} · {found.test}"


def _short(task: str) -> str:
    """The end of a long name, which tells it from others."""
    return task if len(task) <= TASK else f"…{task[1 - TASK :]}"


def published(args: Args, a: Outcomes, b: Outcomes) -> dict[str, Any]:
    """Success before and after over all episodes, the difference with its interval, and the ratio of training times."""
    difference = compare(a, b)
    before, after = (read_results(path)["train_minutes"] for path in (args.a, args.b))
    success = {"success_before": _proportion(a).value, "success_after": _proportion(b).value}
    change = {
        "success_change": difference.difference,
        "success_change_low": difference.low,
        "success_change_high": difference.high,
        "verdict": difference.verdict,
        "episodes": len(b),
    }
    if not before or after is None:  # an expert or a random agent was not trained
        return success | change
    return success | change | {"minutes_before": before, "minutes_after": after, "time_ratio": after / before}


def _made_with(path: Path) -> dict[str, Any]:
    return {key: read_results(path)["manifest"].get(key) for key in ("code", "checkpoint")}


def _of(outcomes: Outcomes, task: str) -> Outcomes:
    return {key: won for key, won in outcomes.items() if key[0] == task}


def _proportion(outcomes: Outcomes) -> Proportion:
    return Proportion(sum(outcomes.values()), len(outcomes))
