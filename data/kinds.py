"""What the numbers of an action mean to the robot: how to stand still depends on it.

    delta      a step from where the robot is, or a velocity: 0 means stay
    absolute   a target, of a joint or a pose: the last target means stay
    unknown    nothing says so

Data sets recorded here say it by their entries' names (delta_x, ...). Of others' it is inferred, entry by entry:
- The same name in state and action is a target of what the state measures. That is how LeRobot records joints.
- Else an entry that follows an entry of the next state closer than half of what it varies is a target.
- Names that begin with "delta" or hold "vel" are steps and velocities.
"""

from __future__ import annotations

import numpy as np

from .contract import Contract

DELTA, ABSOLUTE, UNKNOWN = "delta", "absolute", "unknown"
KINDS = (DELTA, ABSOLUTE, UNKNOWN)
CLOSE = 0.5  # of its deviation: how closely a target is followed by the next state


def action_kinds(contract: Contract, state: np.ndarray, action: np.ndarray, last: np.ndarray) -> tuple[str, ...]:
    """state (F, S), action (F, A). last bool (F,): the frame is its episode's last, and has no next state."""
    state_names = contract.features["observation.state"].names or ()
    action_names = contract.features["action"].names or ("",) * action.shape[1]
    now = np.flatnonzero(~last)
    following, given = state[now + 1], action[now]
    return tuple(
        _kind(name, state_names, given[:, i], following) if len(now) > 1 else _by_name(name, state_names)
        for i, name in enumerate(action_names)
    )


def _by_name(name: str, state_names: tuple[str, ...]) -> str:
    if name.startswith("delta") or "vel" in name:
        return DELTA
    return ABSOLUTE if name in state_names else UNKNOWN


def _kind(name: str, state_names: tuple[str, ...], given: np.ndarray, following: np.ndarray) -> str:
    """given (F,): the action's entry.
    following (F, S): the next states."""
    named = _by_name(name, state_names)
    if named != UNKNOWN:
        return named
    gap = np.sqrt(np.mean((following - given[:, None]) ** 2, axis=0))
    return ABSOLUTE if gap.min(initial=np.inf) < CLOSE * given.std() else UNKNOWN
