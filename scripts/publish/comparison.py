"""Two evaluations, paired where possible: by task, seed and the simulator's first state."""

from collections import Counter
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from ...policy.evaluate.outcome import MEASURED
from ...policy.evaluate.statistics import Comparison, Proportion, paired, unpaired
from ..shared.errors import UserError
from .results_file import read_results

TASK = 21  # characters of a task's name that the table has room for in 80 columns
Outcomes = dict[tuple[str, int, str], bool]  # by task, seed and the digest of the simulator's first state


def load(path: Path, mode: str, control: str) -> Outcomes:
    """Successes of what was measured. Says what was not."""
    chosen = [e for e in read_results(path)["episodes"] if e["mode"] == mode and e["control"] == control]
    measured = [e for e in chosen if e["status"] in MEASURED]
    if not measured:
        raise UserError(f"{path} has no finished episodes with mode {mode!r} and control {control!r}")
    if others := Counter(e["status"] for e in chosen if e["status"] not in MEASURED):
        words = ", ".join(f"{count} {status}" for status, count in sorted(others.items()))
        print(f"{path}: {words} of {len(chosen)} episodes; they count as neither success nor failure")
    return {(e["task"], e["seed"], e.get("first_state", "")): e["success"] for e in measured}


def compare(a: Outcomes, b: Outcomes) -> Comparison:
    """Pairs the episodes of both where it can, and compares."""
    if both := sorted(a.keys() & b.keys()):
        return paired([a[k] for k in both], [b[k] for k in both])
    return unpaired(proportion(a), proportion(b))


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
        shown.add_row(*map(escape, (_short(task), *row(of_task(a, task), of_task(b, task)))))
    shown.add_row(*map(escape, ("all", *row(a, b))))
    return shown


def row(a: Outcomes, b: Outcomes) -> tuple[str, str, str, str]:
    """Successes [%], their difference in points, and the verdict in two words."""
    c = compare(a, b)
    mine, theirs = (str(proportion(outcomes)).replace("%", "") for outcomes in (a, b))
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


def said(name: str, found: Comparison) -> str:
    """The verdict about a task as a line."""
    return f"{name}: {found.verdict} · {found.test}"


def _short(task: str) -> str:
    """The end of a long name, which tells it from others."""
    return task if len(task) <= TASK else f"…{task[1 - TASK :]}"


def published(path_a: Path, path_b: Path, a: Outcomes, b: Outcomes) -> dict[str, Any]:
    """Success before and after over all episodes, the difference with its interval, and the ratio of training times."""
    difference = compare(a, b)
    before, after = (read_results(path)["train_minutes"] for path in (path_a, path_b))
    success = {"success_before": proportion(a).value, "success_after": proportion(b).value}
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


def made_with(path: Path) -> dict[str, Any]:
    """Code and checkpoint of an evaluation."""
    return {key: read_results(path)["manifest"].get(key) for key in ("code", "checkpoint")}


def of_task(outcomes: Outcomes, task: str) -> Outcomes:
    """The outcomes of one task."""
    return {key: won for key, won in outcomes.items() if key[0] == task}


def proportion(outcomes: Outcomes) -> Proportion:
    """Successes of all outcomes."""
    return Proportion(sum(outcomes.values()), len(outcomes))
