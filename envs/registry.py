"""The one dictionary of tasks. Anyone may register: the gymnasium id and the command line follow from it."""

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import gymnasium

from .errors import EnvError
from .gl import need_opengl
from .task_env import TaskEnv


@runtime_checkable
class TaskSpec(Protocol):
    """What is registered: it makes environments of one task, and says beforehand what they give and take."""

    def make(self, name: str, **options: Any) -> TaskEnv:
        """options: `cameras`, `image_size` and `render_mode`, as `TaskEnv` takes them. All have defaults."""
        ...

    def contract_fields(self, image_size: int = ...) -> dict[str, Any]:
        """As `envs.contract.build_contract` gives them. EnvError where a package that the task needs is missing."""
        ...


TASKS: dict[str, TaskSpec] = {}
SUITES: dict[str, tuple[str, ...]] = {}  # in the order in which their tasks register
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # names become folders and files, and gymnasium ids
T = TypeVar("T", bound=TaskSpec)


def register(name: str, *suites: str) -> Callable[[T], T]:
    """`register("mine")(spec)` adds a task and its gymnasium id. On a `Task` class it is a decorator:
    `@register("pick_place", "tabletop")` adds `Tandem/PickPlace-v0` and puts the task into the suite `tabletop`."""

    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise EnvError(f"task name {name!r}: use up to 64 letters a-z, digits, '_' and '-', the first no sign")

    def add(spec: T) -> T:
        if name in TASKS:
            raise EnvError(f"task {name!r} is registered already, as {_kind(TASKS[name])}; choose another name")
        if name in SUITES:
            raise EnvError(f"task name {name!r} is a suite's; choose another name")
        alike = [other for other in TASKS if gym_id(other) == gym_id(name)]
        if alike:
            raise EnvError(f"tasks {name!r} and {alike[0]!r} would share the id {gym_id(name)}; choose another name")
        if not isinstance(spec, TaskSpec):
            raise EnvError(f"task {name!r} is {_kind(spec)}, which makes no environments; register an envs.GymTask")
        for suite in suites:
            if not NAME.fullmatch(suite) or suite in TASKS or suite == name:
                raise EnvError(f"suite name {suite!r} is a task's, or has other signs than a name; choose another")
            SUITES[suite] = (*SUITES.get(suite, ()), name)
        TASKS[name] = spec
        gymnasium.register(gym_id(name), entry_point=lambda **options: make(name, **options))
        return spec

    return add


def _kind(spec: Any) -> str:
    return f"the class {spec.__name__}" if isinstance(spec, type) else f"of type {type(spec).__name__}"


def gym_id(name: str) -> str:
    """The gymnasium id of a task, e.g. Tandem/PickPlace-v0."""
    return f"Tandem/{''.join(word.capitalize() for word in re.split('[_-]', name))}-v0"


def resolve(names: Sequence[str] | str) -> tuple[str, ...]:
    """Task or suite names -> task names. EnvError names the first unknown one."""
    found: list[str] = []
    for name in [names] if isinstance(names, str) else names:
        if name not in TASKS and name not in SUITES:
            close = difflib.get_close_matches(name, [*TASKS, *SUITES], n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise EnvError(f"unknown task {name!r}{hint} Known: {_known()}")
        found += SUITES.get(name, (name,))
    return tuple(dict.fromkeys(found))


def _known() -> str:
    """Every suite with its first tasks, then the tasks that are in none."""
    suites = [f"{name} ({', '.join(tasks[:3])}, …)" for name, tasks in SUITES.items()]
    return ", ".join([*suites, *(name for name in TASKS if not any(name in tasks for tasks in SUITES.values()))])


def make(name: str, image_size: int | None = None, **options: Any) -> TaskEnv:
    """`make("pick_place", cameras=("front", "wrist"), image_size=96)` -> its environment. No size: the task's own."""
    if name not in TASKS:
        resolve(name)
        raise EnvError(f"{name!r} is a suite; make one of its tasks: {', '.join(SUITES[name])}")
    if options.get("cameras") != ():
        need_opengl()
    return TASKS[name].make(name, **_size(image_size), **options)


def contract_fields(names: Sequence[str] | str = "tabletop", image_size: int | None = None) -> dict[str, Any]:
    """The contract that these tasks or suites share, with the tasks' own image size or another [pixels].

    EnvError where two of them differ: one data set and one policy have one contract.
    """
    need_opengl()  # known before a command starts its work
    found = {task: TASKS[task].contract_fields(**_size(image_size)) for task in resolve(names)}
    first, *others = found
    for task in others:
        if found[task] != found[first]:
            raise EnvError(
                f"{first!r} and {task!r} differ in robot, cameras, state or actions; record and train them apart"
            )
    return found[first]


def _size(image_size: int | None) -> dict[str, int]:
    return {} if image_size is None else {"image_size": image_size}
