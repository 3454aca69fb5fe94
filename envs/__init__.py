"""MuJoCo tasks behind gymnasium. `make("pick_place")`, `register("mine")`, `expert(env, seed)`."""

import os
from importlib import import_module

import gymnasium

from . import gl  # noqa: F401  # isort: skip  # before anything imports mujoco
from . import engine  # noqa: F401  # isort: skip  # refuses a version that computes wrongly
from .audit import seed_is_heard, things_in_place
from .entities import ENTITIES
from .errors import EnvError
from .experts import Expert
from .gl import need_opengl
from .pictures import PictureError
from .plain import GymTask
from .plugins import import_tasks
from .registry import SUITES, TASKS, TaskSpec, contract_fields, gym_id, make, register, resolve
from .tabletop import TabletopEnv
from .task_env import Script, TaskEnv, task_of

__all__ = [
    "ENTITIES", "SUITES", "TASKS", "EnvError", "Expert", "GymTask", "PictureError", "Script", "TabletopEnv", "TaskEnv",
    "TaskSpec", "contract_fields", "expert", "gym_id", "make", "need_opengl", "register", "resolve", "seed_is_heard",
    "suite", "task_of", "things_in_place",
]  # fmt: skip


def expert(env: gymnasium.Env, seed: int, disturbed: float | None = None) -> Script:
    """The scripted expert of the task that `env` runs. Call it after `env.reset(seed=seed)`. disturbed: chance of every
    step that a perturbation of its actions starts, which shows how to recover. None: its own."""
    script = task_of(env).expert(seed)
    if disturbed is not None:
        script.disturb(disturbed)
    return script


def suite(name: str) -> tuple[str, ...]:
    """Task names of a suite."""
    if name not in SUITES:
        raise EnvError(f"unknown suite {name!r}; known: {', '.join(SUITES)}")
    return SUITES[name]


BUILT_IN = ("maze", "metaworld", "tasks")  # modules that register tasks and suites; they need no package for that

for _module in BUILT_IN:
    import_module(f"{__name__}.{_module}")
import_tasks(os.environ.get("TANDEM_TASKS", ""))
