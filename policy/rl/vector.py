"""Environments in processes of their own, for learners of stable-baselines3."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium
from stable_baselines3.common.vec_env import SubprocVecEnv

from ..errors import PolicyError


@contextmanager
def in_processes(makers: Sequence[Callable[[], gymnasium.Env]]) -> Iterator[SubprocVecEnv]:
    """PolicyError where a process dies; all have ended when the block has."""
    others = set(multiprocessing.active_children())
    try:
        envs = SubprocVecEnv([partial(_undisturbed, make) for make in makers], start_method="spawn")
        try:
            yield envs
        finally:
            envs.close()
    except (EOFError, ConnectionError) as error:  # of the pipe to a process
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise PolicyError(
            "a worker's process died (its last words are above); run `tandem doctor`, then go on with --resume"
        ) from error


def _undisturbed(make: Callable[[], Any]) -> Any:
    """make(), in a process that leaves Ctrl-C and SIGTERM to its parent."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    return make()
