"""The one gate that every action passes before it reaches an environment."""

from collections import Counter

import numpy as np

from .errors import PolicyError


class ActionLimiter:
    """Clamps to [-1, 1], replaces a non-finite action by the hold action, and counts both in `events`. Never silent."""

    def __init__(self, action_dim: int, events: Counter[str], max_consecutive_holds: int = 20):
        self.action_dim, self.events, self.max_consecutive_holds = action_dim, events, max_consecutive_holds
        self._holds = 0
        self._gripper = -1.0

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """action (A,) -> float32 (A,) in [-1, 1]. Holding keeps the pose (zero deltas) and the last gripper command."""
        if action.shape != (self.action_dim,):
            raise PolicyError(f"the policy gave an action of shape {action.shape}; expected ({self.action_dim},)")
        if not np.isfinite(action).all():
            return self._hold()
        self._holds = 0
        limited = np.clip(action, -1.0, 1.0).astype(np.float32)
        if (np.abs(action - limited) > 1e-3).any():
            self.events["clamped"] += 1
        self._gripper = float(limited[-1])
        return limited

    def _hold(self) -> np.ndarray:
        self.events["held"] += 1
        self._holds += 1
        if self._holds > self.max_consecutive_holds:
            raise PolicyError(f"the policy gave non-finite actions {self._holds} steps in a row; stopped the episode")
        return np.array([0.0] * (self.action_dim - 1) + [self._gripper], dtype=np.float32)
