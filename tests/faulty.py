"""Tasks that raise: a bead on a rail, for TANDEM_TASKS. What goes wrong is decided by the seed's last digit."""

import gymnasium
import numpy as np
from gymnasium import spaces
from tandem import envs


class Bead(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    render_mode = "rgb_array"

    def __init__(self, bad_steps=(), bad_resets=(), size=96):
        self.bad_steps, self.bad_resets, self.size = bad_steps, bad_resets, size

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.digit, self.steps = -1 if not seed else seed % 10, 0
        if self.digit in self.bad_resets:
            raise ValueError(f"no layout for seed {seed}")
        self.at, self.goal = self.np_random.uniform(-0.9, 0.9, 2)
        return self.seen(), {}

    def seen(self):
        return np.array([self.at, self.goal], np.float32)

    def step(self, action):
        self.steps += 1
        if self.digit in self.bad_steps and self.steps == 2:
            raise RuntimeError("physics state is invalid: BADQACC")
        self.at = float(np.clip(self.at + 0.05 * float(action[0]), -1, 1))
        done = bool(self.steps > 3 and abs(self.at - self.goal) < 0.05)
        return self.seen(), 0.0, done, False, {"is_success": done}

    def render(self):
        image = np.random.default_rng(self.steps).integers(0, 60, (self.size, self.size, 3), np.uint8)
        for x, color in ((self.goal, (255, 0, 0)), (self.at, (255, 255, 255))):
            left = int(self.size * (0.48 + 0.44 * x))
            image[self.size // 3 : self.size // 2, max(0, left - 4) : left + 4] = color
        return image


def add(name, **faults):
    if name not in envs.TASKS:
        script = lambda seen: np.array([20 * (seen[1] - seen[0])])  # noqa: E731
        task = envs.GymTask(
            lambda size: Bead(size=size, **faults), "slide the bead", state=lambda seen: seen, horizon=60, script=script
        )
        envs.register(name)(task)


add("bead")
add("bead-step", bad_steps=(2,))
add("bead-reset", bad_resets=(3,))
add("bead-never", bad_resets=range(10))
