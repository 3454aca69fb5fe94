"""Trains one peer by `lerobot-train` for a number of minutes.

The schedule of the learning rate must end with the run, so the number of steps is fixed beforehand: a short run without
checkpoints measures seconds per step and the start-up, and the steps are those that fit. Should the machine get slower
meanwhile, the run is stopped a tenth after its minutes and the last checkpoint counts, which is the middle of the run.
The minutes include everything from the start of the process to its end. The short run is not among them, nor is that of
Tandem.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from ..shared.errors import UserError
from .launch import Ran, run
from .systems import PEERS, train_command

UNCOUNTED = 3  # first steps of the short run, in which memory is touched for the first time
MARGIN = 0.95  # of the minutes, for checkpoints
OVERTIME = 1.1  # of the minutes, after which the run is stopped
LINES = 40  # of the log
RATE = re.compile(r"updt_s:([\d.]+) data_s:([\d.]+)")


@dataclass(frozen=True)
class Budget:
    minutes: float
    probe: int  # steps of the short run
    batch: int = 0  # 0: the system's own
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    checkpoint: str
    minutes: float
    steps: int
    batch: int
    samples_per_s: float  # of the optimiser's loop with its waits for data, without start-up and checkpoints
    memory_gb: float
    finished: bool

    def as_dict(self) -> dict[str, object]:
        """As a dictionary for JSON."""
        return asdict(self)


def train_peer(name: str, python: Path, data: Path, folder: Path, budget: Budget) -> Trained:
    """folder: of this peer. The run lies in its `train`."""
    peer, home = PEERS[name], folder.parent
    batch = budget.batch or peer.batch

    def command(output: Path, steps: int, *more: str) -> list[str]:
        return [*train_command(peer, python, data, output, steps, batch, budget.seed), *more]

    probe = command(folder / "probe", budget.probe, "--log_freq=1", "--save_checkpoint=false")
    trial = run(probe, folder / "probe.log", home)
    steps = affordable(
        trial, step_seconds((folder / "probe.log").read_text(encoding="utf-8", errors="replace")), budget
    )
    log, half = folder / "train.log", -(-steps // 2)
    frequencies = (f"--log_freq={max(1, steps // LINES)}", f"--save_freq={half}")
    ran = run(command(folder / "train", steps, *frequencies), log, home, 60 * OVERTIME * budget.minutes)
    checkpoint, seconds = (
        last_checkpoint(folder / "train"),
        step_seconds(log.read_text(encoding="utf-8", errors="replace")),
    )
    return Trained(
        str(checkpoint), round(ran.seconds / 60, 2), trained_steps(checkpoint), batch,
        round(batch / mean(seconds[1:] or seconds), 2), ran.peak_gb, ran.finished,
    )  # fmt: skip


def step_seconds(log: str) -> list[float]:
    """Seconds of a step, with its wait for data, from every line of LeRobot's log that has them."""
    found = [sum(map(float, pair)) for pair in RATE.findall(log)]
    if not found:
        raise UserError("the log of lerobot-train names no rates (updt_s, data_s); is it another version?")
    return found


def affordable(trial: Ran, seconds: list[float], budget: Budget) -> int:
    """Steps that fit into the minutes, beside a start-up like the trial's. Slow first steps belong to it."""
    each = mean(seconds[UNCOUNTED:] or seconds)
    start_up = trial.seconds - each * len(seconds)
    return max(2, int((MARGIN * 60 * budget.minutes - start_up) / each))


def last_checkpoint(output: Path) -> Path:
    """The folder that the link `last` names: LeRobot sets it when a checkpoint is complete."""
    link = output / "checkpoints" / "last"
    if not link.exists():
        raise UserError(f"{output} has no checkpoint; give more --minutes")
    return link.resolve() / "pretrained_model"


def trained_steps(checkpoint: Path) -> int:
    return int(
        json.loads((checkpoint.parent / "training_state" / "training_step.json").read_text(encoding="utf-8"))["step"]
    )


def mean(values: list[float]) -> float:
    return sum(values) / len(values)
