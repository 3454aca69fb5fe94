"""MuJoCo tasks behind gymnasium. `make("pick_place")`, `register("mine")`, `expert(env, seed)`."""

import os
from importlib import import_module
from typing import Any

from . import gl  # noqa: F401  # isort: skip  # before anything imports mujoco
from . import maze  # noqa: F401  # isort: skip  # registers point-maze
from . import metaworld  # noqa: F401  # isort: skip  # registers its suites; needs no package for that
from . import tasks  # noqa: F401  # isort: skip  # registers the tabletop suite
from .entities import ENTITIES
from .errors import EnvError
from .experts import Expert
from .plain import GymTask
from .registry import SUITES, TASKS, TaskSpec, contract_fields, gym_id, make, register, resolve
from .tabletop import TabletopEnv
from .task_env import Script, TaskEnv

__all__ = [
    "ENTITIES", "SUITES", "TASKS", "EnvError", "Expert", "GymTask", "Script", "TabletopEnv", "TaskEnv", "TaskSpec",
    "contract_fields", "expert", "gym_id", "make", "register", "resolve", "suite",
]  # fmt: skip


def expert(env: Any, seed: int, disturbed: float | None = None) -> Script:
    """The scripted expert of the task that `env` runs; call it after `env.reset(seed=seed)`. disturbed: chance of every
    step that a perturbation of its actions starts, which shows how to recover; none: its own."""
    script: Script = env.unwrapped.expert(seed)
    if disturbed is not None:
        script.disturb(disturbed)
    return script


def suite(name: str) -> tuple[str, ...]:
    """Task names of a suite."""
    if name not in SUITES:
        raise EnvError(f"unknown suite {name!r}; known: {', '.join(SUITES)}")
    return SUITES[name]


def _import_tasks(modules: str) -> None:
    """Modules of other people's tasks, which register themselves; worker processes import them too."""
    for module in modules.split():
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
            raise EnvError(f"TANDEM_TASKS names {module!r}, which cannot be imported; is it on PYTHONPATH?") from None


_import_tasks(os.environ.get("TANDEM_TASKS", ""))
