"""A gymnasium environment as a task: push a ball onto a line with one force.

    export TANDEM_TASKS=gym_task PYTHONPATH=examples
    tandem collect --tasks ball --episodes 2 --output datasets/ball

The environment renders, its action is a box of numbers, and its episodes end. That is all a task needs.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from tandem.envs import GymTask, register


class Ball(gymnasium.Env):
    """A ball on a rail. The state is its place and velocity; the action is a force in [-1, 1]."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = spaces.Box(-2.0, 2.0, (2,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, size: int):
        self.size, self.render_mode = size, "rgb_array"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """The ball lies still at a random place."""
        super().reset(seed=seed)
        self.state = np.array([self.np_random.uniform(-0.9, -0.2), 0.0])
        return self.state.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """The force changes the velocity. The episode succeeds near 0.5."""
        place, velocity = self.state
        velocity = 0.8 * velocity + 0.1 * float(action[0])
        self.state = np.clip([place + velocity, velocity], -1.0, 1.0)
        success = bool(abs(self.state[0] - 0.5) < 0.05)
        return self.state.copy(), -abs(self.state[0] - 0.5), success, False, {"is_success": success}

    def render(self) -> np.ndarray:
        """uint8 (size, size, 3): the ball is red, the line is white."""
        image = np.zeros((self.size, self.size, 3), np.uint8)
        rows = slice(self.size // 2 - 3, self.size // 2 + 3)
        image[:, int(0.75 * self.size)] = 255
        at = int((self.state[0] + 1) / 2 * (self.size - 1))
        image[rows, max(0, at - 3) : at + 3] = (255, 0, 0)
        return image


def spring(state: np.ndarray) -> np.ndarray:
    """The expert: a spring to the line, and a brake."""
    return np.clip([2.0 * (0.5 - state[0]) - 3.0 * state[1]], -1.0, 1.0)


register("ball")(GymTask(Ball, "push the ball onto the line", state=lambda obs: obs, script=spring, horizon=60))
