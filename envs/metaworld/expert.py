"""Meta-World's scripts as experts, and what they are doing in words.

The scripts do not say which stage they are in, so it is read from what they do, alike for all tasks:
    "reach the puck"             until the gripper closes more than it did at first, or the thing has moved
    "grasp the puck"             until the thing has moved
    "push the puck to the goal"  then: the instruction itself
A stage is never left for an earlier one. Where nothing moves but the hand (`reach`), the first stage is all there is.
Things may still be falling into place when an episode starts: what moves far from the hand does not count.

The scripts know no chance, and what never goes wrong shows nobody how to mend it: now and then the hand is pushed aside
for a few steps (envs/bursts.py), and sometimes the fingers do the opposite meanwhile, which drops what they hold. The
scripts look at where things are, so that they mend it.
"""

from typing import Protocol

import numpy as np

from ..bursts import Bursts
from .scripts import script_of

MOVED = 0.01  # distance [m] from its place at which a thing counts as moved
NEAR = 0.15  # distance [m] from the hand within which it is the hand that moves it
CLOSING = 0.1  # rise of the gripper's command over the first one
BURST_RATE, BURST_STEPS = 0.01, (3, 8)  # chance a step that a push starts; its length
FLIP_RATE = 0.3  # share of pushes in which the fingers do the opposite


class Scripted(Protocol):
    """What the expert reads of an environment."""

    title: str
    words: tuple[str, str]

    @property
    def full(self) -> np.ndarray:
        """Meta-World's own observation (39,), with objects and goal."""


class MetaWorldExpert:
    """An `envs.Script`. Made after a reset, for one episode."""

    def __init__(self, env: Scripted, seed: int):
        self._env, self._script = env, script_of(env.title)
        self._place = env.full[4:7].copy()  # of the thing that is handled first, until the hand is near
        self._gripper: float | None = None  # first command
        self._stage = 0
        self._bursts = Bursts(np.random.default_rng([11, seed]), BURST_RATE, BURST_STEPS, _push)

    def disturb(self, rate: float) -> None:
        """Sets the chance a step that a perturbation of the actions starts."""
        self._bursts.change(rate)

    def act(self) -> tuple[np.ndarray, str, bool]:
        """-> action float32 (4,), clipped as it is executed. Subtask. Is the hand being pushed."""
        wanted = self._script.get_action(self._env.full.copy())  # a copy: some scripts write into what they read
        action, burst = np.clip(wanted, -1.0, 1.0), self._bursts.step()
        subtask = self._subtask(float(action[3]))
        if burst is not None:
            push, flip = burst
            action = np.append(np.clip(action[:3] + push, -1.0, 1.0), -np.sign(action[3]) if flip else action[3])
        return action.astype(np.float32), subtask, burst is not None

    def _subtask(self, gripper: float) -> str:
        self._gripper = gripper if self._gripper is None else self._gripper
        hand, thing = self._env.full[:3], self._env.full[4:7]
        if self._stage == 0 and np.linalg.norm(hand - thing) > NEAR:
            self._place = thing.copy()
        moved = bool(np.linalg.norm(thing - self._place) > MOVED)
        self._stage = max(self._stage, 2 * moved, int(gripper > self._gripper + CLOSING))
        instruction, name = self._env.words
        return (f"reach the {name}", f"grasp the {name}", instruction)[self._stage]


def _push(rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """Offset (3,) of the hand's movement. Do the fingers do the opposite."""
    return rng.uniform(-1.0, 1.0, 3), bool(rng.random() < FLIP_RATE)
