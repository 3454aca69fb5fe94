"""Episodes and their outcomes. Outcomes from JSON may be of anyone: every field is checked for its type."""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..errors import PolicyError

Control = Literal["normal", "empty", "wrong"]
# What the agent is told: the truth, nothing, another object of the scene.
CONTROLS: tuple[Control, ...] = ("normal", "empty", "wrong")
Status = Literal["done", "skipped", "sim_error", "crashed", "error"]
# skipped: no wrong instruction exists; sim_error: the simulation broke, never a success; crashed: the worker died or
# made no step; error: the environment, the expert or the policy raised an exception.
STATUSES: tuple[Status, ...] = ("done", "skipped", "sim_error", "crashed", "error")
MEASURED: tuple[Status, ...] = ("done", "sim_error")  # what counts, as a success or as none
FAILED: tuple[Status, ...] = ("crashed", "error")  # what counts as neither, and may run again


@dataclass(frozen=True)
class Episode:
    """What to run."""

    task: str
    seed: int
    mode: str = "hierarchical"  # of the agent, see policy.act.agent.Mode; of another program: its name
    control: str = "normal"

    @property
    def key(self) -> str:
        """task/seed/mode/control, which names an episode."""
        return f"{self.task}/{self.seed}/{self.mode}/{self.control}"


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    task: str
    seed: int
    mode: str
    control: str
    success: bool
    steps: int
    reward: float  # sum over the episode
    told: str  # the instruction that the agent got
    first_state: str  # digest of the simulator's first state
    status: Status
    actions: str = ""  # digest of all actions
    planner_ms: tuple[float, ...] = ()
    controller_ms: tuple[float, ...] = ()
    events: dict[str, int] | None = None
    detail: str = ""

    @property
    def key(self) -> str:
        """task/seed/mode/control, which names an episode."""
        return Episode(self.task, self.seed, self.mode, self.control).key

    def as_dict(self) -> dict[str, Any]:
        """As a dictionary for JSON."""
        return asdict(self)


def outcome_of(episode: Episode, **values: Any) -> Outcome:
    """What came of the episode: `values`, and nothing where they say nothing."""
    nothing: dict[str, Any] = {"success": False, "steps": 0, "reward": 0.0, "told": "", "first_state": ""}
    return Outcome(**(asdict(episode) | nothing | values))


def crashed(episode: Episode, reason: str) -> Outcome:
    """The outcome of an episode whose worker died."""
    return outcome_of(episode, status="crashed", detail=reason)


# -- from JSON ---------------------------------------------------------------------------------------------------------
Check = Callable[[Any], bool]
LARGEST = 1 << 62  # of a whole number


NAME = 200  # characters of a name at most


def is_text(value: Any) -> bool:
    """JSON can spell halves of characters, which nothing can print."""
    return isinstance(value, str) and value.encode("utf-8", "replace").decode() == value


def is_name(value: Any) -> bool:
    """A printable text of up to 200 characters."""
    return isinstance(value, str) and 0 < len(value) <= NAME and value.isprintable()


def is_count(value: Any) -> bool:
    """A whole number from 0 on."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


def is_number(value: Any) -> bool:
    """NaN too, which a reward may be."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= LARGEST
    return isinstance(value, float) and not math.isinf(value)


def is_bool(value: Any) -> bool:
    """True or false, and nothing that only counts as such."""
    return isinstance(value, bool)


def _are_times(value: Any) -> bool:
    return isinstance(value, list) and all(is_number(each) for each in value)


def _are_events(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(is_count(many) for many in value.values()))


# Fields, what each must be, and that in words. The first ones are what a comparison needs.
IDENTITY: dict[str, tuple[Check, str]] = {
    "task": (is_name, "a name"),
    "seed": (is_count, "a whole number from 0 on"),
    "mode": (is_name, "a name"),
    "control": (lambda value: value in CONTROLS, f"one of {', '.join(CONTROLS)}"),
    "status": (lambda value: value in STATUSES, f"one of {', '.join(STATUSES)}"),
    "success": (is_bool, "true or false"),
}
DONE: dict[str, tuple[Check, str]] = {
    "steps": (is_count, "a whole number from 0 on"),
    "reward": (is_number, "a number"),
    "told": (is_text, "a text"),
    "first_state": (is_text, "a text"),
}
REST: dict[str, tuple[Check, str]] = {
    "planner_ms": (_are_times, "a list of numbers"),
    "controller_ms": (_are_times, "a list of numbers"),
    "events": (_are_events, "counts by name"),
    "actions": (is_text, "a text"),
    "detail": (is_text, "a text"),
}


def checked(raw: Any, needed: Iterable[str]) -> dict[str, Any]:
    """`raw`, an episode of results.json or episodes.jsonl. PolicyError names a field of a wrong type, or one of
    `needed` that is not there. Other fields are looked at where they are there."""
    if not isinstance(raw, dict):
        raise PolicyError(f"is {type(raw).__name__}, not an episode")
    for name in needed:
        if name not in raw:
            raise PolicyError(f"has no {name}")
    for name, (check, words) in (IDENTITY | DONE | REST).items():
        if name in raw and not check(raw[name]):
            raise PolicyError(f"{name} is {str(raw[name])[:40]!r}; expected {words}")
    return raw


def outcome_from(raw: Any) -> Outcome:
    """PolicyError where `raw` is not what `Outcome.as_dict` gives."""
    found = checked(raw, (*IDENTITY, *DONE))
    if unknown := sorted(found.keys() - (IDENTITY | DONE | REST).keys()):
        raise PolicyError(f"has an unknown {str(unknown[0])[:40]!r}")
    times = {name: tuple(found.get(name, ())) for name in ("planner_ms", "controller_ms")}
    return Outcome(**(found | times))
