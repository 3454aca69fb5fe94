"""An episode's outcome from JSON that may be of anyone: every field has its type, or the field is named."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import PolicyError
from .episode import CONTROLS, STATUSES, Outcome

Check = Callable[[Any], bool]
LARGEST = 1 << 62  # of a whole number


NAME = 200  # characters of a name at most


def is_text(value: Any) -> bool:
    """JSON can spell halves of characters, which nothing can print."""
    return isinstance(value, str) and value.encode("utf-8", "replace").decode() == value


def is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= NAME and value.isprintable()


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


def is_number(value: Any) -> bool:
    """NaN too, which a reward may be."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= LARGEST
    return isinstance(value, float) and not math.isinf(value)


def is_bool(value: Any) -> bool:
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
    `needed` that is not there; other fields are looked at where they are there."""
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
