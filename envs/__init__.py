"""MuJoCo tasks behind gymnasium. `make("pick_place")`, `register("mine")`, `expert(env, seed)`."""

from typing import Any

import envs.gl  # isort: skip  # before anything imports mujoco
import envs.tasks  # noqa: F401  # isort: skip  # registers the tabletop suite
from envs.contract import contract_fields
from envs.entities import ENTITIES
from envs.errors import EnvError
from envs.experts import Expert
from envs.registry import SUITES, TASKS, gym_id, make, register, resolve, task_names
from envs.tabletop import TabletopEnv

__all__ = [
    "ENTITIES", "SUITES", "TASKS", "EnvError", "Expert", "TabletopEnv",
    "contract_fields", "expert", "gym_id", "make", "register", "resolve", "suite", "task_names",
]  # fmt: skip


def expert(env: Any, seed: int) -> Expert:
    """The scripted expert of the task that `env` runs; call it after `env.reset(seed=seed)`."""
    inner = env.unwrapped
    names = tuple(inner.task.name(inner.sim, i) for i in sorted(inner.sim.colour_of))
    return inner.task.expert(inner.sim, names, seed)


def suite(name: str) -> tuple[str, ...]:
    """Task names of a suite."""
    if name not in SUITES:
        raise EnvError(f"unknown suite {name!r}; known: {', '.join(SUITES)}")
    return SUITES[name]
