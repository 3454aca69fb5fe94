"""Data-parallel training: several processes, each with its share of every batch, whose gradients are averaged.

    with recruit(2, partner, args) as team:      starts partner(team, *args) in another process; both do the same steps
        .... loss.backward(). team.average(gradients). optimizer.step()

Notable choices
- Processes of one thread and not one process of many threads: the operations of small networks are short, and threads
  wait for each other at the end of every one. Two processes train 1.3 times as fast as two threads on two cores.
- Every process holds its own weights, optimiser and averaged weights and changes them alike: only gradients, and the
  few numbers that steps are judged by, travel. Sums are the same in every process, so the weights stay the same.
- torch.distributed with gloo, met through a file: no port to choose, and nothing outside this machine is involved.
Left out: several machines or GPUs, overlap of travelling and computing.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...data.stopping import SIGNALS, die_with_parent
from ..errors import PolicyError

SILENCE = 120.0  # seconds without an answer after which another process counts as hung
GRACE = 5.0  # the same, where somebody waits for us to stop


@dataclass(frozen=True)
class Team:
    """Which of how many processes this is. Rank 0 also logs, saves and answers to the user."""

    rank: int = 0
    size: int = 1
    stopping: Callable[[], bool] | None = field(default=None, compare=False)  # of rank 0: has somebody asked to stop

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Every tensor becomes its mean over the processes, in place."""
        if self.size > 1:
            flat = self._sum(torch.cat([tensor.reshape(-1).float() for tensor in tensors])).div_(self.size)
            parts = flat.split([tensor.numel() for tensor in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Every tensor becomes its sum over the processes, in place."""
        if self.size > 1:
            for tensor in tensors:
                self._sum(tensor)

    def _sum(self, tensor: Tensor) -> Tensor:
        try:
            work = dist.all_reduce(tensor, async_op=True)
            if self.stopping is not None:
                _await(work, self.stopping)
            work.wait()
        except RuntimeError as error:  # gloo's, when the other end is gone
            raise PolicyError(
                f"one of the {self.size} training processes ended ({str(error).splitlines()[0][:80]}); the last "
                "checkpoint is good: continue with --resume, with --processes 1 if memory is short"
            ) from None
        return tensor


class Unanswered(PolicyError):
    """A process hangs, and somebody has asked to stop."""


def _await(work: Any, stopping: Callable[[], bool]) -> None:
    """Until the others have answered. In short sleeps, for signals are heard between them.

    PolicyError where nothing comes for SILENCE seconds. Only time in which this process runs counts: it may have been
    suspended with the others, and go on with them.
    """
    pause, waited, before = 20e-6, 0.0, time.monotonic()
    while not work.is_completed():
        time.sleep(pause)
        pause = min(2 * pause, 1e-3)
        now = time.monotonic()
        waited, before = waited + min(now - before, 0.1), now
        if waited > GRACE and stopping():
            raise Unanswered(f"another training process gave no answer in {waited:.0f} s; the last checkpoint is good")
        if waited > SILENCE:
            raise PolicyError(
                f"another training process gave no answer in {waited:.0f} s; the last checkpoint is good: continue "
                "with --resume, with --processes 1 if memory is short"
            )


ALONE = Team()


@contextmanager
def recruit(
    size: int, partner: Callable[..., object], args: tuple[Any, ...], stopping: Callable[[], bool] = lambda: False
) -> Iterator[Team]:
    """A team of `size` processes: this one (rank 0), and others that run `partner(team, *args)`, which is picklable.

    Partners end with this process, whatever ends it. stopping: has somebody asked this process to stop?
    """
    if size == 1:
        yield ALONE
        return
    context = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        meeting = Path(folder) / "meeting"
        partners = [
            context.Process(target=_serve, args=(meeting, Team(rank, size), partner, args), daemon=True)
            for rank in range(1, size)
        ]
        for process in partners:
            process.start()
        try:
            _meet(meeting, Team(0, size))
            yield Team(0, size, stopping)
        except PolicyError:
            for process in partners:  # one may hang; gloo would wait for it
                process.kill()
            raise
        finally:
            _part()
            for process in partners:
                process.join(timeout=5)
                process.kill()


def _meet(meeting: Path, team: Team) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    dist.init_process_group("gloo", init_method=meeting.as_uri(), rank=team.rank, world_size=team.size)


def _part() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _serve(meeting: Path, team: Team, partner: Callable[..., object], args: tuple[Any, ...]) -> None:
    die_with_parent()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # rank 0 is asked to stop, and tells
    threading.Thread(target=_end_with_rank_0, daemon=True).start()
    _meet(meeting, team)
    try:
        partner(team, *args)
    except PolicyError:
        sys.exit(1)  # rank 0 met the same, and says it
    finally:
        _part()


def _end_with_rank_0() -> None:
    """It may be killed while nothing travels, for minutes."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
