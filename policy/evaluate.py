"""Evaluation: an explicit list of episodes, run by workers that may crash, stored one by one, with intervals."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from .. import envs
from .errors import PolicyError
from .pool import Crash, Pool
from .rollout import Episode, Outcome, crashed, run_job
from .statistics import Proportion

EPISODES_FILE = "episodes.jsonl"


def plan(
    tasks: Iterable[str], episodes: int, first_seed: int, modes: Sequence[str], controls: Sequence[str]
) -> list[Episode]:
    """Every episode of an evaluation. The controls run in the first mode only: they ask what language does, once."""
    seeds = range(first_seed, first_seed + episodes)
    kinds = [(mode, control) for mode in modes for control in controls if control == "normal" or mode == modes[0]]
    return [Episode(task, seed, mode, control) for task in tasks for mode, control in kinds for seed in seeds]


def evaluate(
    spec: Any,
    episodes: list[Episode],
    folder: Path,
    workers: int,
    on_result: Callable[[Outcome], None] = lambda o: None,
    work: Callable[[Any], Outcome] = run_job,
    deadline: float = 300.0,
) -> list[Outcome]:
    """Runs what `folder` does not hold yet and returns all outcomes, in the order of `episodes`.

    work: runs one job (spec, episode) in a worker; the spec of `run_job` is an AgentSpec; deadline: seconds for one
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = {outcome.key: outcome for outcome in read_outcomes(folder)}
    missing = [episode for episode in episodes if episode.key not in known]
    with open(folder / EPISODES_FILE, "a") as log, Pool(work, workers, deadline) as pool:
        for index, result in pool.run([(spec, episode) for episode in missing]):
            outcome = crashed(missing[index], result.reason) if isinstance(result, Crash) else result
            known[outcome.key] = outcome
            log.write(json.dumps(outcome.as_dict()) + "\n")
            log.flush()
            os.fsync(log.fileno())
            on_result(outcome)
    return [known[episode.key] for episode in episodes]


def read_outcomes(folder: Path) -> list[Outcome]:
    """What an interrupted evaluation has finished; a half-written last line is dropped, its episode runs again."""
    file = folder / EPISODES_FILE
    if not file.exists():
        return []
    lines = file.read_text().splitlines()
    outcomes = []
    for number, line in enumerate(lines):
        try:
            outcomes.append(outcome_from(json.loads(line)))
        except (ValueError, TypeError) as error:
            if number < len(lines) - 1:
                raise PolicyError(
                    f"{file} line {number + 1} is damaged ({error}); remove the line and resume"
                ) from error
            file.write_text("".join(kept + "\n" for kept in lines[:-1]))
    return outcomes


def outcome_from(raw: dict[str, Any]) -> Outcome:
    times = {name: tuple(raw[name]) for name in ("planner_ms", "controller_ms")}
    return Outcome(**(raw | times))


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """{"per_task": {task: {column: {success, low, high, n}}}, "mean": {column: …}, "errors": n, latencies}.

    Columns: the modes for the true instruction, and "wrong" and "empty". Crashed episodes are errors, in a column of
    their own: neither successes nor failures.
    """
    per_task: dict[str, dict[str, Any]] = {}
    for task in dict.fromkeys(o.task for o in outcomes):
        per_task[task] = {c: p.as_dict() for c, p in columns([o for o in outcomes if o.task == task]).items()}
    names = dict.fromkeys(column for row in per_task.values() for column in row)
    mean = {c: _mean([row[c]["success"] for row in per_task.values() if c in row]) for c in names}
    return {
        "per_task": per_task,
        "mean": mean,
        "errors": sum(o.status == "crashed" for o in outcomes),
        "planner_ms": _median([ms for o in outcomes for ms in o.planner_ms]),
        "controller_ms": _median([ms for o in outcomes for ms in o.controller_ms]),
        "wrong_instruction_drop": wrong_instruction_drop(per_task),
    }


def columns(outcomes: list[Outcome]) -> dict[str, Proportion]:
    groups: dict[str, list[bool]] = {}
    for o in outcomes:
        if o.status in ("done", "sim_error"):
            groups.setdefault(o.mode if o.control == "normal" else o.control, []).append(o.success)
    return {name: Proportion(sum(values), len(values)) for name, values in groups.items()}


def wrong_instruction_drop(per_task: dict[str, dict[str, Any]]) -> float | None:
    """Mean fall of success under a wrong instruction, over the tasks whose instruction picks the object."""
    falls = [
        row["hierarchical"]["success"] - row["wrong"]["success"]
        for row in per_task.values()
        if {"wrong", "hierarchical"} <= row.keys()
    ]
    return _mean(falls)


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def _median(values: list[float]) -> float | None:
    return round(median(values), 2) if values else None


def resolve_tasks(names: Sequence[str]) -> tuple[str, ...]:
    return envs.resolve(tuple(names))
