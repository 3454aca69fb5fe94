"""A result file as Markdown: numbers, success by task, and tables within tables."""

import re
from collections.abc import Callable
from typing import Any

COLUMNS = ("hierarchical", "flat", "wrong", "empty")
FOLDED = 12  # tasks above which their table is folded away
FRACTIONS = (
    "data_wait",
    "tier_average",
    "task_mean",
    "easy",
    "medium",
    "hard",
    "very_hard",
    "before",
    "after",
    "gain",
    "low",
    "high",
    "change",
)


def render(result: dict[str, Any]) -> str:
    """A result as Markdown."""
    metrics = result["metrics"]
    per_task = metrics.get("per_task", {})
    numbers = _tables({key: value for key, value in metrics.items() if key != "per_task"})
    if len(per_task) > FOLDED:
        fold = f"<details><summary>success of the {len(per_task)} tasks, with 95% intervals</summary>"
        lines = [*numbers, "", fold, "", *_task_table(per_task), "", "</details>"]
    else:
        lines = [*_task_table(per_task), "", *numbers] if per_task else numbers
    made = result["manifest"]
    about = f"`{result['command']}` · code `{made['code']}` · {made['processor']}, {made['cores']} cores"
    return "\n".join([*lines, "", about])


def _is_summary(value: Any) -> bool:
    """A mean over seeds with its interval (scripts.benches.intervals)."""
    return isinstance(value, dict) and value.keys() == {"mean", "low", "high", "n"}


def _rows(values: dict[str, Any], title: str = "measured") -> list[str]:
    return [
        f"| {title} | value |",
        "|---|---|",
        *(f"| {key} | {_value(key, value)} |" for key, value in values.items()),
    ]


def _tables(values: dict[str, Any], title: str = "measured") -> list[str]:
    """Numbers in one table. Every group of numbers in its own, rows of one kind side by side."""
    groups = {key: value for key, value in values.items() if isinstance(value, dict) and not _is_summary(value)}
    numbers = {key: value for key, value in values.items() if key not in groups}
    if not numbers and (rows := _twice_named(groups)):
        return _grid(rows, f"{title} | ")
    flat = not any(isinstance(v, dict) and not _is_summary(v) for group in groups.values() for v in group.values())
    if not numbers and flat and len({tuple(group) for group in groups.values()}) == 1:
        return _grid(groups, title)
    lines = _rows(numbers, title) if numbers else []
    for key, group in groups.items():
        lines += ["", *_tables(group, key)]
    return lines


def _twice_named(groups: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows of groups of rows of one kind, such as methods of tasks, under both names. None where that is not so."""
    rows = {f"{key} | {name}": row for key, group in groups.items() for name, row in group.items()}
    alike = all(isinstance(row, dict) and not _is_summary(row) for row in rows.values())
    if not alike or len({tuple(row) for row in rows.values()}) != 1:
        return {}
    return {} if any(isinstance(v, dict) and not _is_summary(v) for v in [*rows.values()][0].values()) else rows


def _grid(rows: dict[str, dict[str, Any]], title: str) -> list[str]:
    columns = [*next(iter(rows.values()))]
    bounded = columns[columns.index("low") - 1] if "low" in columns[1:] and "high" in columns else ""
    shown = [c for c in columns if not bounded or c not in ("low", "high")]
    head = [f"| {title} | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1 + title.count("|")) + "|"]
    body = (
        " | ".join(_value(c, row[c]) + (_bounds(row) if c == bounded else "") for c in shown) for row in rows.values()
    )
    return head + [f"| {name} | {cells} |" for name, cells in zip(rows, body, strict=True)]


def _bounds(row: dict[str, Any]) -> str:
    """The interval of the value that `low` and `high` stand behind."""
    return " [{}, {}]".format(*(_value(key, row[key]).removesuffix("%") for key in ("low", "high")))


def _value(key: str, value: Any) -> str:
    if not _is_summary(value):
        return _number(key, value)
    return f"{value['mean']:.4g} [{value['low']:.4g}, {value['high']:.4g}], n = {value['n']}"


def _task_table(per_task: dict[str, dict[str, Any]]) -> list[str]:
    shown = [c for c in COLUMNS if any(c in row for row in per_task.values())]
    head = ["| task | " + " | ".join(shown) + " | episodes |", "|---" * (len(shown) + 2) + "|"]
    return head + [
        f"| {task} | " + " | ".join(cell(row.get(c)) for c in shown) + f" | {_count(row)} |"
        for task, row in per_task.items()
    ]


def cell(entry: dict[str, float] | None) -> str:
    """A success with its interval, for a table."""
    return (
        "–" if entry is None else f"{100 * entry['success']:.0f}% [{100 * entry['low']:.0f}, {100 * entry['high']:.0f}]"
    )


def _count(row: dict[str, Any]) -> int:
    return next(iter(row.values()))["n"]


def _is_fraction(key: str) -> bool:
    return bool({"success", "drop", "share"} & set(key.split("_"))) or key.removesuffix("_flat") in FRACTIONS


def _number(key: str, value: Any) -> str:
    formats: list[tuple[Callable[[str], bool], Callable[[Any], str]]] = [
        (_is_fraction, lambda v: f"{100 * v:.1f}%"),
        (lambda k: k.endswith("_ms"), lambda v: f"{v:.1f} ms"),
        (lambda k: k.endswith("_steps"), lambda v: f"{v:,.0f}"),
        (lambda k: re.search(r"per_s(_|$)", k) is not None, lambda v: f"{v:,.0f}" if v >= 100 else f"{v:.3g}"),
    ]
    if not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return next((show(value) for fits, show in formats if fits(key)), f"{value:.4g}")
