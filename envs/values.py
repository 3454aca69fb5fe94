"""What other people's code gives, taken as what it is meant to be: numpy's bools are bools, one number may be an array.

Every function names in its EnvError what gave the value ("success of task 'slide'") and what it was.
"""

from typing import Any

import numpy as np

from .errors import EnvError


def truth(what: str, value: Any) -> bool:
    """A bool, numpy's too, alone or in an array of one. A number that is 0 or 1."""
    array = _array(what, value)
    if array.size != 1 or array.dtype.kind not in "biuf" or array.item() not in (0, 1):
        raise EnvError(f"{what} is {_shown(value)}; give a bool")
    return bool(array.item())


def number(what: str, value: Any) -> float:
    """Alone or in an array of one. It may be infinite or no number."""
    array = _array(what, value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise EnvError(f"{what} is {_shown(value)}; give a number")
    return float(array.item())


def vector(what: str, value: Any, entries: int | None = None) -> np.ndarray:
    """float32 (n,), of its own memory: a number, a list or an array of one dimension, with `entries` where these are
    given."""
    array = _array(what, value)
    if array.dtype.kind not in "biuf" or array.ndim > 1 or array.size == 0:
        raise EnvError(f"{what} is {_shown(value)}; give numbers in one dimension")
    if entries is not None and array.size != entries:
        raise EnvError(f"{what} has {_entries(array.size)}; expected {entries}")
    with np.errstate(over="ignore"):  # to infinity, which the caller sees
        return np.array(array.reshape(-1), np.float32)


def finite(what: str, values: np.ndarray) -> np.ndarray:
    """The vector itself."""
    if not np.isfinite(values).all():
        entry = int(np.argmin(np.isfinite(values)))
        raise EnvError(f"{what} is not finite: entry {entry} is {values[entry]}")
    return values


def _array(what: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, tensors on a GPU
        raise EnvError(f"{what} is a {type(value).__name__} that is no array: {error}") from error


def _entries(count: int) -> str:
    return f"{count} {'entry' if count == 1 else 'entries'}"


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.size > 1:
        return f"an array of {value.dtype} {value.shape}"
    words = " ".join(repr(value).split())
    return words if len(words) <= 60 else f"{words[:57]}…"
