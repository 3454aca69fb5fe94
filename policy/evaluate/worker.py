"""A process that works for this one: it dies with it, leaves signals to it, and shows that it is not stuck.

    process, heart = start(deadline, serve, pipe)        # serve(pipe) runs in the worker, which calls `beat` as it goes
    heart.overdue                                        # seconds that passed without a beat, where they were too many

Notable choices
- A deadline is for one step and not for a whole job: an episode may take minutes, a step of it may not. The worker
  writes into shared memory until when its next beat is due, and the parent compares: a worker that is stuck in C code,
  holding the interpreter's lock, could not say so itself. A beat costs less than a microsecond.
- The kernel kills a worker whose parent died (Linux): one that is stuck would never read that its pipe was closed.
- Signals of the terminal go to the whole group. They are blocked while a worker starts and ignored from then on: the
  parent alone decides what becomes of the work.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from multiprocessing.sharedctypes import RawArray
from typing import Any

from ...data.stopping import SIGNALS, die_with_parent

STEP = 30.0  # seconds that a step may take at least, where no deadline was given
PERIODS = 600  # control periods that it may take, where these are longer
SLOW = 10  # times as long as a step that a reset may take, and the first step after it, which may compile
START = 300.0  # seconds that everything before the first beat may take at least: imports, weights, a first environment


class Heart:
    """Shared by a worker and its parent."""

    def __init__(self, deadline: float | None):
        """deadline: seconds that a step may take. None: from the rate that the worker tells (`pace`)."""
        self.given, self.step = deadline is not None, STEP if deadline is None else deadline
        self._times: Any = RawArray("d", 2)  # until when a beat is due, and how many seconds that were
        self.grant(START)

    def grant(self, seconds: float) -> None:
        """The next beat is due in `seconds`."""
        self._times[0], self._times[1] = time.monotonic() + seconds, seconds

    def begin(self) -> None:
        """A new job was given."""
        self.grant(max(START, SLOW * self.step))

    def excuse(self, seconds: float) -> None:
        """Nobody could have beaten so long: this machine slept, or the whole group of processes was stopped."""
        self._times[0] += seconds

    @property
    def overdue(self) -> float:
        """Seconds that the worker was given for its next beat, where it let them pass. Else 0."""
        return self._times[1] if time.monotonic() > self._times[0] else 0.0


_heart: Heart | None = None  # of this process, where it is a worker


def beat(steps: int = 1) -> None:
    """In a worker: it goes on, and the next beat is due within the time of so many steps. Elsewhere: nothing."""
    if _heart is not None:
        _heart.grant(steps * _heart.step)


def pace(rate: float) -> None:
    """In a worker: steps from now on are those of an environment of `rate` control steps a second."""
    if _heart is not None and not _heart.given:
        _heart.step = default_deadline(rate)


def default_deadline(rate: float) -> float:
    """Seconds that a step of an environment of `rate` control steps a second may take."""
    return max(STEP, PERIODS / max(rate, 1e-3))


def start(deadline: float | None, serve: Callable[..., None], *args: Any) -> tuple[SpawnProcess, Heart]:
    """A running process that calls serve(*args). Spawned: OpenGL contexts do not survive a fork."""
    heart = Heart(deadline)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_begin, args=(heart, os.getpid(), serve, args), daemon=True)
    with _no_signals():
        process.start()
    return process, heart


@contextmanager
def _no_signals() -> Iterator[None]:
    """The signals that ask to stop wait meanwhile, and processes that are started inherit that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        resource_tracker.ensure_running()  # a helper of multiprocessing's own, which unblocks some of them at its start
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(heart: Heart, parent: int, serve: Callable[..., None], args: tuple[Any, ...]) -> None:
    global _heart
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    die_with_parent()
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    _heart = heart
    serve(*args)
