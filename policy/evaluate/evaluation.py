"""Evaluation: an explicit list of episodes, run by workers that may crash, stored one by one, with intervals.

    folder/episodes.jsonl     an outcome a line, appended and synced as they come; of equal keys the last one counts

An episode that failed (its worker died or hung, or something raised) counts as neither success nor failure, and runs
again when the evaluation is resumed. Where the first ones of a task all failed, the others would too: it ends.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ... import envs
from ...data.errors import DataError
from ...data.files import Lock, parse_json, read_bytes, write_atomic
from ..errors import PolicyError
from .outcome import FAILED, MEASURED, Episode, Outcome, crashed, outcome_from
from .pool import Crash, Pool
from .statistics import Proportion

EPISODES_FILE = "episodes.jsonl"
LATENCIES = ("planner_ms", "controller_ms")
BINS = (5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)  # milliseconds
LONGEST = 1 << 30  # bytes of that file
HOPELESS = 10  # episodes of a task of which all failed, after which no other one is tried


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
    work: Callable[[Any], Outcome] | None = None,
    deadline: float | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Outcome]:
    """Runs what `folder` does not hold yet, and what failed in it. Returns all outcomes, in the order of `episodes`.

    work: runs one job (spec, episode) in a worker. Default: `episode.run_job`, whose spec is an AgentSpec.
    deadline: seconds that a step may take. Default: from the environment's rate.
    stopped: asked every second. True ends early with the outcomes so far.
    """
    from .episode import run_job  # it imports torch, which the command line does not wait for

    known = {outcome.key: outcome for outcome in read_outcomes(folder) if outcome.status not in FAILED}
    missing = [episode for episode in episodes if episode.key not in known]
    hope = Hope()
    with _log(folder) as note, Pool(work or run_job, workers, deadline, stopped) as pool:
        for index, result in pool.run([(spec, episode) for episode in missing]):
            outcome = crashed(missing[index], result.reason) if isinstance(result, Crash) else result
            known[outcome.key] = outcome
            note(outcome)
            on_result(outcome)
            hope.note(outcome)
    return [known[episode.key] for episode in episodes if episode.key in known]


@contextmanager
def in_use(folder: Path) -> Iterator[Path]:
    """The folder is made, and nobody else's until the block ends. DataError where another process has it. A new one
    goes again where nothing was written into it."""
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder)
    try:
        yield folder
    finally:
        lock.release()
        if new:
            with suppress(OSError):  # it holds something
                folder.rmdir()


@contextmanager
def _log(folder: Path) -> Iterator[Callable[[Outcome], None]]:
    """Appends outcomes to the folder's file. Each is on the disk when the call returns."""
    folder.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(folder / EPISODES_FILE, flags, 0o644), "a", encoding="utf-8") as log:

        def note(outcome: Outcome) -> None:
            log.write(json.dumps(outcome.as_dict()) + "\n")
            log.flush()
            os.fsync(log.fileno())

        yield note


class Hope:
    """Ends an evaluation whose first episodes of a task all failed: what is broken is not of one episode."""

    def __init__(self) -> None:
        self.failures: dict[str, list[Outcome]] = {}
        self.fine: set[str] = set()  # tasks of which an episode ended

    def note(self, outcome: Outcome) -> None:
        """PolicyError where there is no hope for its task."""
        if outcome.status not in FAILED:
            self.fine.add(outcome.task)
        if outcome.task in self.fine:
            return
        failures = self.failures.setdefault(outcome.task, [])
        failures.append(outcome)
        if len(failures) >= HOPELESS:
            first = failures[0]
            raise PolicyError(
                f"the first {HOPELESS} episodes of {first.task} all failed; seed {first.seed}: {first.detail}; mend it"
            )


def read_outcomes(folder: Path) -> list[Outcome]:
    """What an interrupted evaluation has finished. A last line that was written in part is dropped, its episode runs
    again. One that lost its end alone gets it."""
    file = folder / EPISODES_FILE
    try:
        content = read_bytes(file, LONGEST)
    except FileNotFoundError:
        return []
    *lines, rest = content.split(b"\n")
    outcomes = [_outcome_of(line, f"{file} line {number}") for number, line in enumerate(lines, 1)]
    if rest:
        try:
            outcomes.append(_outcome_of(rest, str(file)))
            lines.append(rest)
        except PolicyError:
            pass  # killed while it was written
        write_atomic(file, b"".join(line + b"\n" for line in lines))
    return outcomes


def _outcome_of(line: bytes, where: str) -> Outcome:
    try:
        return outcome_from(parse_json(line, where))
    except (DataError, PolicyError) as error:
        raise PolicyError(f"{where} is damaged ({str(error)[:200]}); remove the line and resume") from None


def measured(outcomes: Iterable[Outcome]) -> bool:
    """Is there a success or a failure among them?"""
    return any(outcome.status in MEASURED for outcome in outcomes)


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """{"per_task": {task: {column: {success, low, high, n}}}, "mean": {column: …}, "errors": n, latencies, …}.

    Columns: the modes for the true instruction, and "wrong" and "empty". Failed episodes are errors, in a column of
    their own: neither successes nor failures. Broken simulations (sim_errors) are failures, and counted.
    clamped_share: of all steps, those whose action was out of limits. Held: steps without a finite action.
    """
    per_task: dict[str, dict[str, Any]] = {}
    for task in dict.fromkeys(o.task for o in outcomes):
        per_task[task] = {c: p.as_dict() for c, p in columns([o for o in outcomes if o.task == task]).items()}
    names = dict.fromkeys(column for row in per_task.values() for column in row)
    mean = {c: _mean([row[c]["success"] for row in per_task.values() if c in row]) for c in names}
    events = sum((Counter(o.events) for o in outcomes if o.events), Counter[str]())
    steps = sum(o.steps for o in outcomes)
    return {
        "per_task": per_task,
        "mean": mean,
        "errors": _count(outcomes, FAILED),
        "sim_errors": _count(outcomes, ("sim_error",)),
        "failed_per_task": {
            task: {"errors": _count(mine, FAILED), "sim_errors": _count(mine, ("sim_error",))}
            for task in per_task
            if (mine := [o for o in outcomes if o.task == task])
        },
        "clamped_share": round(events["clamped"] / steps, 4) if steps else None,
        "held": events["held"],
        "events": dict(sorted(events.items())),
        "latency": {name: _spread([ms for o in outcomes for ms in getattr(o, name)]) for name in LATENCIES},
        "planner_ms": _median([ms for o in outcomes for ms in o.planner_ms]),
        "controller_ms": _median([ms for o in outcomes for ms in o.controller_ms]),
        "wrong_instruction_drop": wrong_instruction_drop(per_task),
    }


def _spread(values: list[float]) -> dict[str, Any]:
    """Percentiles in milliseconds, and how many took up to each of BINS (and longer)."""
    if not values:
        return {}
    percentiles = dict(zip(("p50", "p95", "p99", "max"), np.percentile(values, [50, 95, 99, 100]), strict=True))
    counts = np.histogram(values, [0.0, *BINS, np.inf])[0].tolist()
    names = [*(f"to_{edge:g}" for edge in BINS), "longer"]
    return {name: round(float(v), 2) for name, v in percentiles.items()} | {
        "histogram": dict(zip(names, counts, strict=True))
    }


def _count(outcomes: Iterable[Outcome], statuses: Sequence[str]) -> int:
    return sum(outcome.status in statuses for outcome in outcomes)


def columns(outcomes: list[Outcome]) -> dict[str, Proportion]:
    groups: dict[str, list[bool]] = {}
    for o in outcomes:
        if o.status in MEASURED:
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
    """Task or suite names -> task names."""
    envs.need_opengl()
    return envs.resolve(tuple(names))
