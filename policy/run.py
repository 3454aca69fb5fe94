"""The folder of one training run: who may write there, where curves go, and how it is asked to stop.

outputs/train/2026-11-24/10-12-33_demo/{train_config.json, log.jsonl, tensorboard/, checkpoints/, .lock}
"""

import json
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from ..data.files import Lock
from .errors import PolicyError


def default_output(command: str, job: str) -> Path:
    """outputs/<command>/YYYY-MM-DD/HH-MM-SS_<job>, the ecosystem's habit."""
    return Path("outputs") / command / time.strftime("%Y-%m-%d") / f"{time.strftime('%H-%M-%S')}_{job}"


class Silent:
    """What a partner in training has for a run: rank 0 alone logs and is asked to stop (policy/team.py)."""

    stop_requested = False

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""


class Run:
    """Context manager: takes the lock, turns Ctrl-C and SIGTERM into `stop_requested`, closes the curves."""

    def __init__(self, folder: Path, resume: bool):
        self.folder, self.resume = folder, resume
        self.stop_signal: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "Run":
        if self.folder.exists() and any(self.folder.iterdir()) and not self.resume:
            raise PolicyError(
                f"output folder {self.folder} exists; pass --resume to continue it or choose another --output"
            )
        if self.resume and not self.folder.exists():
            raise PolicyError(f"nothing to resume: {self.folder} does not exist")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(self.folder)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._ask_to_stop)
        self.writer = SummaryWriter(str(self.folder / "tensorboard"))
        self._log = open(self.folder / "log.jsonl", "a")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.writer.close()
        self._log.close()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._lock.release()

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(f"{stage}/{name}", value, step)
        try:
            self._log.write(json.dumps({"stage": stage, "step": step, **metrics}) + "\n")
            self._log.flush()
        except OSError as error:
            raise PolicyError(f"cannot write into {self.folder}: {error}; free space and --resume") from None

    @property
    def stop_requested(self) -> bool:
        return self.stop_signal is not None

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        if self.stop_requested:
            raise KeyboardInterrupt  # asked twice: do not wait for the step to end
        self.stop_signal = number
