"""Worker processes that may die: every job is done exactly once, in a fresh process if its first one crashed.

Workers are spawned (OpenGL contexts do not survive a fork), get one job at a time through a pipe of their own, and are
replaced when the pipe closes or a job takes too long. A job that keeps killing its worker is reported as a `Crash`, not
dropped and not counted as anything else. Errors that Python can report (exceptions) end the run: they are bugs or bad
input, and repeating them would hide that.
"""

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, Self

RETRIES = 2  # fresh workers that a job may kill before it is given up


@dataclass(frozen=True)
class Crash:
    """The result of a job whose workers all died."""

    reason: str


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    job: int | None = None
    since: float = 0.0


class Pool:
    """`with Pool(work, workers, deadline) as pool: for index, result in pool.run(jobs)`: in order of completion.

    Workers are started when they are first needed and kept from one `run` to the next.
    """

    def __init__(self, work: Callable[[Any], Any], workers: int, deadline: float = 300.0):
        """work: a picklable function of one job; deadline: seconds that one job may take."""
        self.work, self.count, self.deadline = work, max(1, workers), deadline
        self.replaced = 0  # workers that died
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop(self._workers)

    def run(self, jobs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        self.jobs, self.waiting, self.tries = jobs, deque(range(len(jobs))), [0] * len(jobs)
        while len(self._workers) < min(self.count, len(jobs)):
            self._workers.append(self._spawn())
        left = len(jobs)
        try:
            while left:
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
                worker.job, worker.since = self.waiting.popleft(), time.monotonic()
                self.tries[worker.job] += 1
                try:
                    worker.pipe.send(self.jobs[worker.job])
                except OSError:  # it died while it had nothing to do
                    yield from self._replace(worker, f"died with exit code {_exit_code(worker)}")
        busy = {worker.pipe: worker for worker in self._workers if worker.job is not None}
        for pipe in wait(list(busy), timeout=1.0):
            worker = busy.pop(pipe)  # type: ignore[call-overload]
            try:
                result = worker.pipe.recv()
            except (EOFError, ConnectionResetError):
                yield from self._replace(worker, f"died with exit code {_exit_code(worker)}")
                continue
            index, worker.job = worker.job, None
            if isinstance(result, BaseException):
                raise result
            assert index is not None
            yield index, result
        for worker in busy.values():
            if time.monotonic() - worker.since > self.deadline:
                yield from self._replace(worker, f"gave no answer in {self.deadline:.0f} s")

    def _replace(self, worker: _Worker, reason: str) -> Iterator[tuple[int, Any]]:
        job = worker.job
        assert job is not None
        self.replaced += 1
        worker.process.kill()
        self._workers[self._workers.index(worker)] = self._spawn()
        if self.tries[job] <= RETRIES:
            self.waiting.appendleft(job)
        else:
            yield job, Crash(f"worker {reason}, {self.tries[job]} times")

    def _spawn(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.work), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _stop(self, workers: Sequence[_Worker]) -> None:
        for worker in workers:
            worker.pipe.close()
        for worker in workers:
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.kill()


def _exit_code(worker: _Worker) -> int | None:
    worker.process.join(timeout=5)
    return worker.process.exitcode


def _serve(pipe: Connection, work: Callable[[Any], Any]) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = ForkingPickler.dumps(work(job))
        except Exception as error:  # carried to the parent, which raises it
            answer = ForkingPickler.dumps(_portable(error))
        try:
            pipe.send_bytes(answer)
        except OSError:  # given up: nobody waits for it
            return


def _portable(error: Exception) -> Exception:
    """The error itself, or what it says, where it cannot travel."""
    try:
        ForkingPickler.dumps(error)
    except Exception:  # whatever its parts raise when they are pickled
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
