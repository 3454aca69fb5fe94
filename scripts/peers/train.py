"""Trains one peer by `lerobot-train` for a number of minutes.

The schedule of the learning rate must end with the run, so that the number of steps is fixed beforehand. A short run
without checkpoints measures the seconds per step and the start-up. The training gets the steps that fit. Should the
machine become slower, the run is stopped when it exceeds its minutes by a tenth. The last checkpoint then counts,
which is from the middle of the run.

The minutes include everything from the start of the process to its end. They exclude the short run, as they do for
Tandem.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from ..shared.errors import UserError
from .launch import Ran, run
from .systems import PEERS, train_command

UNCOUNTED = 3  # first steps of the short run, left out because memory is touched for the first time
MARGIN = 0.95  # share of the minutes for which steps are planned. The rest is for checkpoints.
OVERTIME = 1.1  # multiple of the minutes at which the run is stopped
LINES = 40  # approximate number of lines in a run's log
RATE = re.compile(r"updt_s:([\d.]+) data_s:([\d.]+)")


@dataclass(frozen=True)
class Budget:
    """Budget and seed of one training."""

    minutes: float  # minutes of training, without the short run
    probe: int  # steps of a peer's short run
    batch: int = 0  # batch size of a peer. 0: its own.
    seed: int = 0  # seed of training


@dataclass(frozen=True)
class Trained:
    """Result of one training."""

    checkpoint: str  # path
    minutes: float  # from the start of the process to its end
    steps: int  # steps of the checkpoint
    batch: int  # batch size
    samples_per_s: float  # rate of the optimiser's loop with its waits for data, without start-up and checkpoints
    memory_gb: float  # largest memory of the process tree [GiB]
    finished: bool  # False: the run was stopped for exceeding its minutes

    def as_dict(self) -> dict[str, object]:
        """The fields as a dictionary for JSON."""
        return asdict(self)


def train_peer(name: str, python: Path, data: Path, folder: Path, budget: Budget) -> Trained:
    """Trains a peer within the budget, after a short run that measures its rate.

    name: name of the peer.
    python: interpreter of the peers' environment.
    folder: folder of this peer. The run is in its `train`, the short run in its `probe`.
    """
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
    """Seconds of a step, with its wait for data, from each line of LeRobot's log with rates. UserError without any."""
    found = [sum(map(float, pair)) for pair in RATE.findall(log)]
    if not found:
        raise UserError("the log of lerobot-train names no rates (updt_s, data_s); is it another version?")
    return found


def affordable(trial: Ran, seconds: list[float], budget: Budget) -> int:
    """Number of steps that fit into the minutes after a start-up like the short run's, at least 2.

    trial: the short run. Its slow first steps count as start-up.
    seconds: seconds of each of its steps.
    """
    each = mean(seconds[UNCOUNTED:] or seconds)
    start_up = trial.seconds - each * len(seconds)
    return max(2, int((MARGIN * 60 * budget.minutes - start_up) / each))


def last_checkpoint(output: Path) -> Path:
    """Folder `pretrained_model` of the last complete checkpoint, by LeRobot's link `last`. UserError without one."""
    link = output / "checkpoints" / "last"
    if not link.exists():
        raise UserError(f"{output} has no checkpoint; give more --minutes")
    return link.resolve() / "pretrained_model"


def trained_steps(checkpoint: Path) -> int:
    """Steps of training of a LeRobot checkpoint. checkpoint: its `pretrained_model` folder."""
    return int(
        json.loads((checkpoint.parent / "training_state" / "training_step.json").read_text(encoding="utf-8"))["step"]
    )


def mean(values: list[float]) -> float:
    """Arithmetic mean. ZeroDivisionError for an empty list."""
    return sum(values) / len(values)
