"""The one gate that every action passes before it reaches an environment."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ...data.kinds import ABSOLUTE, UNKNOWN
from ..errors import AgentGaveUp


class ActionLimiter:
    """Clamps to the range, replaces a non-finite action by one that keeps the robot still, counts both in `events`.

    What keeps it still follows from the kind of action (data/kinds.py): deltas and velocities of 0, the last target of
    an absolute entry, the last gripper command. Without kinds (data and tasks of ours) all are deltas but the last,
    which is the gripper.
    """

    def __init__(
        self,
        action_dim: int,
        events: Counter[str],
        max_consecutive_holds: int = 20,
        kinds: Sequence[str] | None = None,
    ):
        self.action_dim, self.events, self.max_consecutive_holds = action_dim, events, max_consecutive_holds
        self._holds = 0
        self._last: np.ndarray | None = None
        self._unknown = UNKNOWN in (kinds or ())
        self._absolute = np.zeros(action_dim, bool) if kinds is None else np.array([k == ABSOLUTE for k in kinds])
        self._repeats = np.arange(action_dim) == action_dim - 1 if kinds is None else self._absolute

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """action (A,) -> float32 (A,) in [-1, 1]. AgentGaveUp where it has no such shape, or nothing finite comes."""
        if action.shape != (self.action_dim,):
            raise AgentGaveUp(f"the policy gave an action of shape {action.shape}; expected ({self.action_dim},)")
        if not np.isfinite(action).all():
            return self._hold()
        self._holds = 0
        limited = np.clip(action, -1.0, 1.0).astype(np.float32)
        if (np.abs(action - limited) > 1e-3).any():
            self.events["clamped"] += 1
        self._last = limited
        return limited

    def stay(self) -> np.ndarray:
        """float32 (A,): keeps the robot where it is. AgentGaveUp where nothing is known to do that."""
        if self._unknown:
            raise AgentGaveUp("nothing is known to keep the robot still: the data does not tell its kind of action")
        if self._last is None and self._absolute.any():
            raise AgentGaveUp("there is no last target that could keep the robot still")
        last = np.full(self.action_dim, -1.0, np.float32) if self._last is None else self._last
        return np.where(self._repeats, last, np.float32(0.0))

    def _hold(self) -> np.ndarray:
        self.events["held"] += 1
        self._holds += 1
        if self._holds > self.max_consecutive_holds:
            raise AgentGaveUp(f"the policy gave non-finite actions {self._holds} steps in a row; stopped the episode")
        return self.stay()
