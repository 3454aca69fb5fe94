"""The folder of one training run: who may write there, where curves go, and how it is asked to stop.

outputs/train/2026-11-24/10-12-33_demo/{train_config.json, log.jsonl, tensorboard/, checkpoints/, .lock}
"""

import atexit
import itertools
import json
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ...data.files import Lock, json_bytes, write_atomic
from ...data.stopping import Stop, Stopped
from ..errors import PolicyError


def default_output(command: str, job: str) -> Path:
    """outputs/<command>/YYYY-MM-DD/HH-MM-SS_<job>, the ecosystem's habit. The folder is made, so that no other command
    of the same second has it too, and goes again at the end of this process where nothing was written into it."""
    day, name = Path("outputs") / command / time.strftime("%Y-%m-%d"), f"{time.strftime('%H-%M-%S')}_{job}"
    day.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = day / (name if number == 1 else f"{name}_{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        atexit.register(_give_back, folder.absolute())
        return folder
    raise AssertionError("unreachable")


def _give_back(folder: Path) -> None:
    with suppress(OSError):  # it holds what it was made for, or is gone already
        folder.rmdir()


class Silent:
    """What a partner in training has for a run: rank 0 alone logs and is asked to stop (data_parallel.py)."""

    stop_requested = False

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def keep(self, name: str, value: Any) -> str:
        """Nothing."""
        return ""


class Run:
    """Context manager: takes the lock, turns Ctrl-C, SIGTERM and SIGHUP into `stop_requested`, closes the curves.

    resume: continue what the folder holds, or begin where it holds nothing, so that one command does for both.
    """

    def __init__(self, folder: Path, resume: bool):
        self.folder, self.resume = folder, resume
        self._stop = Stop()

    def __enter__(self) -> "Run":
        if self.folder.exists() and any(self.folder.iterdir()) and not self.resume:
            raise PolicyError(
                f"output folder {self.folder} exists; pass --resume to continue it or choose another --output"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(self.folder)
        self._stop.__enter__()
        from torch.utils.tensorboard import SummaryWriter  # it imports torch, which a help text does not wait for

        self.writer = SummaryWriter(str(self.folder / "tensorboard"))
        self._log = open(self.folder / "log.jsonl", "a", encoding="utf-8")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.writer.close()
        self._log.close()
        self._stop.__exit__(kind, error, trace)
        self._lock.release()

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Adds a point to the curves and a line to log.jsonl."""
        for name, value in metrics.items():
            self.writer.add_scalar(f"{stage}/{name}", value, step)
        try:
            self._log.write(json.dumps({"stage": stage, "step": step, **metrics}) + "\n")
            self._log.flush()
        except OSError as error:
            raise PolicyError(f"cannot write into {self.folder}: {error}; free space and --resume") from None

    @property
    def stop_requested(self) -> bool:
        """Was the run asked to stop?"""
        return self._stop.requested

    def stopped(self, message: str) -> Stopped:
        """What to raise once all is saved: it carries the signal, and so the exit code."""
        return Stopped(message, self._stop.number or signal.SIGINT)

    def keep(self, name: str, value: Any) -> str:
        """Writes a JSON file into the folder. Returns where, to be added to an error."""
        write_atomic(self.folder / name, json_bytes(value))
        return f"; all in {self.folder / name}"

    def note(self, value: Mapping[str, Any]) -> None:
        """A line of log.jsonl that is no curve."""
        self._log.write(json.dumps(value) + "\n")
        self._log.flush()
