"""How a command is asked to stop: Ctrl-C, or a scheduler's SIGTERM or SIGHUP.

    with Stop() as stop:
        while work and not stop.requested: ...
        stop.finish("continue with --resume --output runs/a")       # raises Stopped where it was asked to

Notable choices
- The handler only notes the signal. An exception raised inside a handler is lost where C code calls Python (an import
  inside pyarrow, a callback of a codec): Ctrl-C was swallowed so in one of ten recordings.
- Outside of a block the exception is raised (`interrupt`), for nothing has to be brought to an end there. Where it was
  lost in an import, the next block, or the end of the command, still knows of it (`heard`).
- A second signal does not wait for the present step: it raises at once.
- Exit codes: 130 after Ctrl-C, and 75 (EX_TEMPFAIL: try again later) after SIGTERM or SIGHUP, so that a scheduler can
  tell "was preempted, run the same command again" from an error (2).
"""

import ctypes
import signal
import sys
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
heard: list[int] = []  # signals that came outside of every block, since the command began
INTERRUPTED, PREEMPTED = 130, 75  # exit codes


def die_with_parent() -> None:
    """For a process that was just started: the kernel kills it when its parent dies, also while it hangs in C code.
    Linux only. Elsewhere nothing happens."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Stopped(KeyboardInterrupt):
    """A command that was asked to stop has stopped. What it says is how to go on."""

    def __init__(self, message: str = "", number: int = signal.SIGINT):
        super().__init__(message)
        self.number = number

    @property
    def exit_code(self) -> int:
        """Exit code of the command: 130 after Ctrl-C, 75 after SIGTERM or SIGHUP."""
        return INTERRUPTED if self.number == signal.SIGINT else PREEMPTED


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handler of a command, outside of every block."""
    heard.append(number)
    raise Stopped("", number)


class Stop:
    """Notes the signals while its block runs. Only in a process's main thread. Blocks may lie within each other: the
    inner one hears."""

    def __init__(self) -> None:
        self.number: int | None = None  # of the signal that asked
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.number = heard[-1] if heard else None
        for number in SIGNALS:
            self._handlers[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @property
    def requested(self) -> bool:
        """Was the process asked to stop?"""
        return self.number is not None

    def finish(self, message: str) -> None:
        """Stopped(message) where a signal has come. Else nothing."""
        if self.number is not None:
            raise Stopped(message, self.number)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise Stopped("asked twice: did not wait for the present step", number)
        self.number = number
