"""The script of every task: Meta-World's own, but for one that nobody could imitate who sees single frames.

`handle-pull-side`: Meta-World's lifts at full speed, slips off the handle and goes back for it, in cycles of six
control steps. Which half of a cycle it is, no frame shows. Ours aims a little above the handle, and keeps it. It takes
as long.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

LIFT = 0.03  # height [m] above the handle at which the hand aims while it lifts
FAR = 0.5  # height [m] that only an aim for lifting is above the handle

Aim = Callable[[dict[str, np.ndarray]], np.ndarray]  # what is observed, in parts -> where the hand shall go [m]


def script_of(title: str) -> Any:
    """title: Meta-World's name of the task -> its script, with `get_action(observation)`."""
    from metaworld.policies import ENV_POLICY_MAP

    kind: Any = ENV_POLICY_MAP[title]  # typed as abstract where the package is installed
    script = kind()
    if title == "handle-pull-side-v3":
        script._desired_pos = steadily(script._desired_pos)
    return script


def steadily(aim: Aim) -> Aim:
    def steady(observed: dict[str, np.ndarray]) -> np.ndarray:
        wanted, handle = aim(observed), observed["handle_pos"]
        lifts = wanted[2] > handle[2] + FAR
        return handle + np.array([0.0, 0.0, LIFT]) if lifts else wanted

    return steady
