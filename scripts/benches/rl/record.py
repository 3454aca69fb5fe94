"""One run of `tandem bench rl` in few numbers: what it began with, what it cost, and what came of every layout.

docs/results/rl_runs.json holds those of all that was published, so that training seeds may be learned at different
times and on different machines: what the pages show is made of records.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ....data.files import read_json
from ...shared.errors import UserError

DONE, EVALUATION = "learned.json", "eval"  # in the folder of a run: what it cost, left when it ended; what came of it

Outcomes = dict[int, tuple[bool, int]]  # seed of a layout -> success, control steps


@dataclass(frozen=True)
class Record:
    """What came of one run of reinforcement learning."""

    method: str
    seed: int  # of training
    base: str  # digest of the checkpoint it began with
    minutes: float  # that it was given
    command: str
    code: str
    settings: dict[str, Any]
    env_steps: int
    took: float  # minutes
    curve: list[tuple[int, float, int]]  # environment steps, success of the last episodes, how many these were
    before: dict[str, Outcomes]  # task -> outcomes
    after: dict[str, Outcomes]

    @property
    def group(self) -> str:
        """The tasks that one policy learned."""
        return "_".join(self.after)

    @property
    def row(self) -> tuple[str, str]:
        return self.group, self.method

    def like(self, other: "Record") -> bool:
        """May both be seeds of one row?"""
        return (self.base, self.minutes, self.settings) == (other.base, other.minutes, other.settings)

    def excludes(self, other: "Record") -> bool:
        """They are about the same task and method, and no seeds of one row."""
        same = self.method == other.method and bool(set(self.after) & set(other.after))
        return same and not (self.row == other.row and self.like(other))

    def as_dict(self) -> dict[str, Any]:
        """As a dictionary for JSON."""
        packed = {name: {t: _packed(o) for t, o in getattr(self, name).items()} for name in ("before", "after")}
        return asdict(self) | packed | {"curve": " ".join(":".join(map(str, point)) for point in self.curve)}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "Record":
        found = {name: {t: _unpacked(o) for t, o in raw[name].items()} for name in ("before", "after")}
        points = [point.split(":") for point in raw["curve"].split()]
        return cls(**raw | found | {"curve": [(int(step), float(share), int(n)) for step, share, n in points]})


def _packed(outcomes: Outcomes) -> str:
    """ "1000000:+45 1000001:-120": a line of a file, not hundreds."""
    return " ".join(f"{seed}:{'+' if won else '-'}{steps}" for seed, (won, steps) in outcomes.items())


def _unpacked(text: str) -> Outcomes:
    parts = [part.split(":") for part in text.split()]
    return {int(seed): (steps[0] == "+", int(steps[1:])) for seed, steps in parts}


def read_record(
    folder: Path, before: Path, tasks: tuple[str, ...], minutes: float, base: str, command: str, method: str, seed: int
) -> Record:
    """Of a finished run in `folder` and the evaluation `before` it."""
    cost, made = (read_json(folder / name) for name in (DONE, "made_with.json"))
    return Record(
        method=method, seed=seed, base=base, minutes=minutes, command=command,
        code=made["code"], settings=cost["settings"], env_steps=cost["env_steps"],
        took=round(cost["minutes"], 2), curve=curve_in(folder),
        before={task: outcomes(before, task) for task in tasks},
        after={task: outcomes(folder / EVALUATION, task) for task in tasks},
    )  # fmt: skip


def curve_in(folder: Path) -> list[tuple[int, float, int]]:
    """Of a run: environment steps, success of the last episodes, how many these were."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(row["step"], row["success"], row["n"]) for row in rows if row["stage"] == "rl"]


def evaluated(folder: Path) -> dict[str, int]:
    """Task -> episodes of it in an evaluation that is finished. None where there is none."""
    file = folder / "results.json"
    return dict(Counter(e["task"] for e in read_json(file, limit=1 << 30)["episodes"])) if file.exists() else {}


def outcomes(folder: Path, task: str) -> Outcomes:
    episodes = read_json(folder / "results.json", limit=1 << 30)["episodes"]
    ran = [e for e in episodes if e["task"] == task and e["status"] in ("done", "sim_error")]
    if not ran:
        raise UserError(f"{folder} has no episode of {task}; choose another --output")
    return {int(e["seed"]): (bool(e["success"]), int(e["steps"])) for e in ran}


def merged(old: list[Record], new: list[Record]) -> list[Record]:
    """Old records stay where they are other seeds of the same rows, or of tasks and methods that are not in `new`."""
    done = {(record.row, record.seed) for record in new}
    stay = [r for r in old if (r.row, r.seed) not in done and not any(r.excludes(n) for n in new)]
    return sorted([*stay, *new], key=lambda record: (record.row, record.seed))


def alike(records: list[Record]) -> None:
    for record in records:
        if not record.like(records[0]):
            raise UserError(
                f"seed {record.seed} of {' '.join(record.row)} learned with other settings than seed "
                f"{records[0].seed}; delete one of these runs and run again"
            )
