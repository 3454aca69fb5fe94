"""The one dictionary of tasks. Anyone may register: the gymnasium id and the command line follow from it."""

import difflib
from collections.abc import Callable
from typing import Any, TypeVar

import gymnasium

from envs.errors import EnvError

TASKS: dict[str, type] = {}
SUITES: dict[str, tuple[str, ...]] = {
    "tabletop": ("reach", "push", "pick_place", "stack", "open_drawer", "close_drawer", "press_button")
}
T = TypeVar("T", bound=type)


def register(name: str) -> Callable[[T], T]:
    """Class decorator: `@register("pick_place")` adds the task and the gymnasium id `Tandem/PickPlace-v0`."""

    def add(task: T) -> T:
        if name in TASKS:
            raise EnvError(f"task {name!r} is registered already, by {TASKS[name].__qualname__}; choose another name")
        TASKS[name] = task
        gymnasium.register(gym_id(name), entry_point=lambda **options: make(name, **options))
        return task

    return add


def gym_id(name: str) -> str:
    return f"Tandem/{''.join(word.capitalize() for word in name.split('_'))}-v0"


def task_names() -> tuple[str, ...]:
    return tuple(TASKS)


def resolve(names: tuple[str, ...] | list[str] | str) -> tuple[str, ...]:
    """Task or suite names -> task names; EnvError names the first unknown one."""
    found: list[str] = []
    for name in [names] if isinstance(names, str) else names:
        if name not in TASKS and name not in SUITES:
            close = difflib.get_close_matches(name, [*TASKS, *SUITES], n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise EnvError(f"unknown task {name!r}{hint} Known: {', '.join([*TASKS, *SUITES])}")
        found += SUITES.get(name, (name,))
    return tuple(dict.fromkeys(found))


def make(name: str, **options: Any) -> gymnasium.Env:
    """`make("pick_place", cameras=("front", "wrist"), image_size=96)` -> a `TabletopEnv`."""
    from envs.tabletop import TabletopEnv

    if name not in TASKS:
        resolve(name)
        raise EnvError(f"{name!r} is a suite; make one of its tasks: {', '.join(SUITES[name])}")
    return TabletopEnv(name, TASKS[name](), **options)
