"""The gymnasium environment: a task on a simulated tabletop, observed by cameras and proprioception.

Observation (keys as in LeRobot's data sets):
    observation.images.front, .wrist   uint8 (size, size, 3)   RGB, row 0 at the top
    observation.state                  float32 (17,)           STATE_NAMES
    task                               str                     the instruction
Action: float32 (7,) in [-1, 1]: delta position (5 cm a step, world), delta axis-angle (0.25 rad, world), gripper
(-1 open, +1 close). Reward in [0, 1]. An episode terminates on success and is truncated at the horizon.
"""

import hashlib
import string
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.entities import ENTITIES
from envs.errors import EnvError
from envs.projection import project
from envs.rendering import CameraRenderer
from envs.simulation import CONTROL_HZ, Simulation
from envs.task import Task

CAMERAS = ("front", "wrist")
STATE_NAMES = (
    "eef_x", "eef_y", "eef_z", *(f"rot6d_{i}" for i in range(6)), "gripper_opening",
    *(f"joint_{i}" for i in range(1, 8)),
)  # fmt: skip
STATE_LOW = np.array([-1.0] * 9 + [-0.05] + [-2.91, -1.78, -2.91, -3.08, -2.91, -0.03, -2.91], np.float32)
STATE_HIGH = np.array([1.0] * 9 + [1.05] + [2.91, 1.78, 2.91, -0.06, 2.91, 3.77, 2.91], np.float32)
CHARACTERS = string.ascii_letters + string.digits + string.punctuation + " "


class TabletopEnv(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}

    def __init__(
        self,
        name: str,
        task: Task,
        cameras: tuple[str, ...] = CAMERAS,
        image_size: int = 96,
        render_mode: str | None = "rgb_array",
    ):
        """cameras: those in the observation; render_mode: "rgb_array", what `render` returns, or None."""
        if render_mode not in (None, "rgb_array"):
            raise EnvError(f"unknown render_mode {render_mode!r} for task {name!r}; known: 'rgb_array'")
        self.render_mode = render_mode
        unknown = set(cameras) - set(CAMERAS)
        if unknown:
            raise EnvError(f"unknown camera {sorted(unknown)[0]!r} for task {name!r}; known: {', '.join(CAMERAS)}")
        self.name, self.task, self.cameras, self.image_size = name, task, tuple(cameras), image_size
        self.sim = Simulation(task.fixtures)
        self.horizon, self.picks_object = task.horizon, task.picks_object
        self._renderers: dict[int, CameraRenderer] = {}
        image = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        self.observation_space = spaces.Dict(
            {f"observation.images.{camera}": image for camera in self.cameras}
            | {
                "observation.state": spaces.Box(STATE_LOW, STATE_HIGH, dtype=np.float32),
                "task": spaces.Text(max_length=128, min_length=0, charset=CHARACTERS),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (7,), np.float32)
        self.instruction, self._steps = "", 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """options {"instruction": str} changes what the agent is told, not what counts as success."""
        super().reset(seed=seed)
        self.task.reset(self.sim, self.np_random)
        told = (options or {}).get("instruction")
        self.instruction = self.task.instruction(self.sim) if told is None else str(told)
        self._steps = 0
        return self._observe(), {"success": False, "instruction": self.instruction}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        action = self._checked(action)
        limited = np.clip(action, -1.0, 1.0)
        self.sim.control(limited)
        self._steps += 1
        broken = self.sim.diverged()
        success = not broken and self.task.success(self.sim)
        reward = 0.0 if broken else float(np.clip(self.task.reward(self.sim), 0.0, 1.0))
        info = {"success": success, "clipped": bool((limited != action).any()), "sim_error": broken}
        return self._observe(), reward, success, broken or self._steps >= self.horizon, info

    def _checked(self, action: np.ndarray) -> np.ndarray:
        action = np.asarray(action, np.float32)
        if action.shape != (7,):
            raise EnvError(f"action has shape {action.shape} at step {self._steps} of {self.name!r}; expected (7,)")
        if not np.isfinite(action).all():
            raise EnvError(f"action is not finite at step {self._steps} of {self.name!r}: {action.tolist()}")
        return action

    def _observe(self) -> dict[str, Any]:
        images = {f"observation.images.{c}": self.render_camera(c, self.image_size) for c in self.cameras}
        state = np.clip(self.sim.state(), STATE_LOW, STATE_HIGH)
        return images | {"observation.state": state, "task": self.instruction}

    def render_camera(self, camera: str, size: int) -> np.ndarray:
        """uint8 (size, size, 3), whatever the observation's size."""
        if size not in self._renderers:
            self._renderers[size] = CameraRenderer(self.sim.model, size)
        return self._renderers[size].image(self.sim.data, camera)

    def render(self) -> np.ndarray:  # type: ignore[override]
        return self.render_camera("front", 480)

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers = {}

    def wrong_instruction(self) -> str | None:
        """A true sentence about another object of this scene; None where the instruction picks nothing."""
        return self.task.wrong_instruction(self.sim)

    def privileged(self) -> dict[str, np.ndarray]:
        """What only a simulator knows; recorded for training, never part of an observation.

        observation.environment_state (M * 4,): x, y, z [m] and present, per entity of ENTITIES;
        observation.keypoints.<camera> (M * 3,): u right, v down in [-1, 1] and visible (in front and inside the image);
        referents (2,): index in ENTITIES of what the true instruction handles, and of where to; -1 for none.
        """
        found = self.sim.entity_positions()
        state = np.zeros((len(ENTITIES), 4), np.float32)
        for i, entity in enumerate(ENTITIES):
            if entity in found:
                state[i] = (*found[entity], 1.0)
        columns = {"observation.environment_state": state.reshape(-1)}
        for camera in CAMERAS:
            points = project(self.sim.model, self.sim.data, camera, state[:, :3])
            points[state[:, 3] == 0] = 0.0
            columns[f"observation.keypoints.{camera}"] = points.reshape(-1)
        names = self.task.referents(self.sim)
        columns["referents"] = np.array([-1 if n is None else ENTITIES.index(n) for n in names], np.int64)
        return columns

    def first_state_digest(self) -> str:
        """sha256 of the simulator's state and the instruction; equal seeds give equal digests."""
        return hashlib.sha256((self.sim.digest() + self.task.instruction(self.sim)).encode()).hexdigest()
