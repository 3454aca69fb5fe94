"""Worker processes that may die or hang: every job is done exactly once, in a fresh process if its first one crashed.

Workers are spawned, get one job at a time through a pipe of their own, and are replaced when the pipe closes or a step
of a job takes too long (policy/evaluate/worker.py). A job that keeps killing its worker is reported as a `Crash`, not
dropped and not counted as anything else. Errors that Python can report (exceptions) end the run: they are bugs or bad
input, and repeating them would hide that. Work whose exceptions are results returns them.
"""

import multiprocessing
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, Self

from .worker import Heart, start

RETRIES = 2  # fresh workers that a job may kill before it is given up
HANGS = 1  # fresh workers that it may hang: each costs a deadline
PAUSE = 5.0  # seconds longer than asked that a wait takes only where this process itself was stopped


@dataclass(frozen=True)
class Crash:
    """The result of a job whose workers all died."""

    reason: str


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    heart: Heart
    job: int | None = None


class Pool:
    """`with Pool(work, workers, deadline) as pool: for index, result in pool.run(jobs)`: in order of completion.

    Workers are started when they are first needed and kept from one `run` to the next.
    """

    def __init__(
        self,
        work: Callable[[Any], Any],
        workers: int,
        deadline: float | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ):
        """work: a picklable function of one job, which calls `worker.beat` at every step.
        deadline: seconds that a step
        may take, none: from the rate that the work tells.
        stopped: asked every second, ends `run` early."""
        self.work, self.count, self.deadline, self.stopped = work, max(1, workers), deadline, stopped
        self.replaced = 0  # workers that died
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop(self._workers)

    def run(self, jobs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Runs the jobs and yields (index, result) as they are done. A result is a Crash where all workers died."""
        self.jobs, self.waiting, self.tries = jobs, deque(range(len(jobs))), [0] * len(jobs)
        while len(self._workers) < min(self.count, len(jobs)) and not self.stopped():
            self._workers.append(self._spawn())
        left = len(jobs)
        try:
            while left and not self.stopped():
                for index, result in self._round():
                    left -= 1
                    yield index, result
        finally:  # given up half-way: what is still being worked on must not answer the next run
            busy = [worker for worker in self._workers if worker.job is not None]
            self._workers = [worker for worker in self._workers if worker.job is None]
            self._stop(busy)

    def _round(self) -> Iterator[tuple[int, Any]]:
        for worker in list(self._workers):
            if worker.job is None and self.waiting:
                worker.job = self.waiting.popleft()
                self.tries[worker.job] += 1
                worker.heart.begin()
                try:
                    worker.pipe.send(self.jobs[worker.job])
                except OSError:  # it died while it had nothing to do
                    yield from self._replace(worker, f"died with exit code {_exit_code(worker)}", RETRIES)
        busy = {worker.pipe: worker for worker in self._workers if worker.job is not None}
        for pipe in self._answers(list(busy.values())):
            worker = busy.pop(pipe)
            try:
                result = worker.pipe.recv()
            except BlockingIOError:  # it stopped in the middle of its answer
                yield from self._replace(worker, "stopped in its answer", HANGS)
                continue
            except (EOFError, ConnectionResetError):
                yield from self._replace(worker, f"died with exit code {_exit_code(worker)}", RETRIES)
                continue
            index, worker.job = worker.job, None
            if isinstance(result, BaseException):
                raise result
            assert index is not None
            yield index, result
        for worker in busy.values():
            if seconds := worker.heart.overdue:
                yield from self._replace(worker, f"made no step in {seconds:.3g} s", HANGS)

    def _answers(self, busy: list[_Worker]) -> list[Connection]:
        """Pipes with an answer, after a second at most."""
        begin = time.monotonic()
        ready = wait([worker.pipe for worker in busy], timeout=1.0)
        if (passed := time.monotonic() - begin) > PAUSE:
            for worker in busy:
                worker.heart.excuse(passed)
        return ready  # type: ignore[return-value]

    def _replace(self, worker: _Worker, reason: str, retries: int) -> Iterator[tuple[int, Any]]:
        job = worker.job
        assert job is not None
        self.replaced += 1
        self._end([worker])
        self._workers[self._workers.index(worker)] = self._spawn()
        if self.tries[job] <= retries:
            self.waiting.appendleft(job)
        else:
            times = "" if self.tries[job] == 1 else f", {self.tries[job]} times"
            yield job, Crash(f"worker {reason}{times}")

    def _spawn(self) -> _Worker:
        ours, theirs = multiprocessing.Pipe()
        process, heart = start(self.deadline, _serve, theirs, self.work)
        theirs.close()
        _limit_reads(ours, heart.step)
        return _Worker(process, ours, heart)

    def _stop(self, workers: Sequence[_Worker]) -> None:
        """Idle ones end by themselves. Nobody waits for what the others do."""
        self._end([worker for worker in workers if worker.job is not None])
        idle = [worker for worker in workers if worker.job is None]
        for worker in idle:
            worker.pipe.close()
        for worker in idle:
            worker.process.join(timeout=5)
        self._end([worker for worker in idle if worker.process.is_alive()])

    def _end(self, workers: Sequence[_Worker]) -> None:
        for worker in workers:
            worker.process.kill()
            worker.pipe.close()
        for worker in workers:
            worker.process.join(timeout=5)


def _exit_code(worker: _Worker) -> int | None:
    worker.process.join(timeout=5)
    return worker.process.exitcode


def _limit_reads(pipe: Connection, seconds: float) -> None:
    """An answer of which only a part comes is a BlockingIOError after `seconds`, and not waited for for ever."""
    with socket.socket(fileno=pipe.fileno()) as end:  # only a view of it
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(seconds) + 1, 0))
        end.detach()


def _serve(pipe: Connection, work: Callable[[Any], Any]) -> None:
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = ForkingPickler.dumps(work(job))
        except Exception as error:  # carried to the parent, which raises it
            answer = ForkingPickler.dumps(portable(error))
        try:
            pipe.send_bytes(answer)
        except OSError:  # given up: nobody waits for it
            return


def portable(error: Exception) -> Exception:
    """The error itself, or what it says, where it cannot travel."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:  # whatever its parts raise when they are pickled, or its class when it is made again
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
