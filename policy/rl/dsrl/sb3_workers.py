"""Environments in processes of their own, for learners of stable-baselines3.

Stable-baselines3's own `SubprocVecEnv` waits for ever for a process that hangs. When one process dies, it leaves the
others running. Here every answer has a deadline (policy/evaluate/worker.py). An exception of an environment becomes an
error of one line. All processes have ended when the block of `in_processes` ends.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import gymnasium
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper
from stable_baselines3.common.vec_env.subproc_vec_env import _worker

from ...errors import PolicyError
from ...evaluate.faults import EVERYONES, described
from ...evaluate.pool import portable
from ...evaluate.worker import SLOW, Heart, start


class _Remote:
    """A pipe to a worker process with a deadline for each answer."""

    def __init__(self, pipe: Connection, heart: Heart):
        self.pipe, self.heart = pipe, heart

    def send(self, command: tuple[str, Any]) -> None:
        name, _ = command
        if name == "step":
            self.heart.grant(self.heart.step)
        else:
            self.heart.grant(SLOW * self.heart.step)
        self.pipe.send(command)

    def recv(self) -> Any:
        while not self.pipe.poll(1.0):
            if seconds := self.heart.overdue:
                raise PolicyError(
                    f"an environment made no step in {seconds:.3g} s; mend it, or give it more with --step-deadline, "
                    "then --resume"
                )
        answer = self.pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.pipe.close()


class Processes(SubprocVecEnv):
    """Vector of environments, one process each."""

    def __init__(self, makers: Sequence[Callable[[], gymnasium.Env]], deadline: float | None):
        """Starts the processes and reads the spaces of the first one.

        makers: picklable functions, each of which makes one environment.
        deadline: seconds that a step may take. None: derived from the environment's rate.
        """
        self.waiting, self.closed = False, False
        self.remotes: Any = []
        self.processes: Any = []
        try:
            for make in makers:
                ours, theirs = Pipe()
                process, heart = start(deadline, _serve, theirs, ours, make)
                theirs.close()
                self.remotes.append(_Remote(ours, heart))
                self.processes.append(process)
            self.remotes[0].pipe.send(("get_spaces", None))  # answered within the deadline of a start
            spaces = self.remotes[0].recv()
        except BaseException:
            self.kill()
            raise
        VecEnv.__init__(self, len(makers), *spaces)

    def kill(self) -> None:
        """Kills all processes and closes their pipes. Steps in progress are lost."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join(timeout=5)
        for remote in self.remotes:
            remote.close()
        self.closed = True


@contextmanager
def in_processes(
    makers: Sequence[Callable[[], gymnasium.Env]], deadline: float | None = None
) -> Iterator[SubprocVecEnv]:
    """Context of environments in processes, which have all ended when the block ends.

    makers, deadline: see `Processes`.
    PolicyError where a process dies or a step exceeds the deadline.
    """
    envs = None
    try:
        envs = Processes(makers, deadline)
        yield envs
    except (EOFError, ConnectionError) as error:  # raised by the pipe to a process
        raise PolicyError(
            "a worker's process died (its last words are above); run `tandem doctor`, then go on with --resume"
        ) from error
    finally:
        if envs is not None:
            envs.kill()


def _serve(pipe: Connection, parents: Connection, make: Callable[[], Any]) -> None:
    """Runs stable-baselines3's worker loop in the process. An exception is sent as the answer to the request."""
    try:
        _worker(pipe, parents, CloudpickleWrapper(partial(_self, make())))
    except (PolicyError, *EVERYONES) as error:
        _answer(pipe, error)
    except Exception as error:  # code of environments may raise anything
        _answer(pipe, PolicyError(f"an environment failed: {described(error)}"))


def _self(env: gymnasium.Env) -> gymnasium.Env:
    return env


def _answer(pipe: Connection, error: Exception) -> None:
    try:
        pipe.send(portable(error))
    except OSError:  # the parent has closed the pipe
        return
