"""Any gymnasium environment as a task: it must render, and its actions be a box of numbers.

    def make(size):
        return gymnasium.make("Pendulum-v1", render_mode="rgb_array")

    register("pendulum")(GymTask(make, "swing the pendulum up", state=lambda obs: obs, success=is_up, horizon=200))

and the command line, told the module by TANDEM_TASKS, takes it by its name; with a `script` demonstrations can be
recorded. What is seen is what it renders, scaled to the size asked for; actions are scaled from [-1, 1] to its own
limits; its reward passes as it is.
Left out: privileged columns (the encoder then learns without teachers), more than one camera, wrong instructions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from PIL import Image

from .contract import Vector, build_contract
from .errors import EnvError
from .rendering import close_at_exit
from .task_env import Script, TaskEnv, digest, told

CAMERA = "view"


@dataclass(frozen=True)
class GymTask:
    """An `envs.TaskSpec`."""

    make_env: Callable[[int], gymnasium.Env]  # image size [pixels] -> environment with render_mode="rgb_array"
    instruction: str
    state: Callable[[Any], np.ndarray]  # its observation -> proprioception (S,)
    script: Callable[[Any], np.ndarray] | None = None  # its observation -> expert's action in [-1, 1] (A,)
    robot: str = "unknown"
    horizon: int = 0  # steps; 0: the environment's own limit
    success: Callable[[dict[str, Any]], bool] = lambda info: bool(info["is_success"])  # of the step's info
    dense_reward: bool = False  # does its reward rise on the way to success, as `tandem rl --method ppo` needs?

    def make(self, name: str, **options: Any) -> TaskEnv:
        return PlainEnv(name, self, **options)

    def contract_fields(self, image_size: int = 96) -> dict[str, Any]:
        """Made from the environment itself: entries have numbers for names, and units are not known."""
        env = self.make_env(image_size)
        S, A = self.state(env.reset(seed=0)[0]).shape[0], _box(env).shape[0]
        rate = int(env.metadata.get("render_fps", 20))
        env.close()
        state = Vector(tuple(f"state_{i}" for i in range(S)), ("unknown",) * S)
        names, units = tuple(f"action_{i}" for i in range(A)), ("of the limit",) * A
        action = Vector(names, units, (-1.0,) * A, (1.0,) * A)
        return build_contract(self.robot, rate, {CAMERA: "sRGB, as the environment renders"}, image_size, state, action)


def _box(env: gymnasium.Env) -> spaces.Box:
    space = env.action_space
    if not isinstance(space, spaces.Box) or len(space.shape) != 1 or not space.is_bounded():
        raise EnvError(f"actions of {env} are {space}; only bounded boxes of one dimension can be driven")
    return space


class PlainEnv(TaskEnv):
    """The environment of a `GymTask`."""

    def __init__(
        self,
        name: str,
        task: GymTask,
        cameras: tuple[str, ...] = (CAMERA,),
        image_size: int = 96,
        render_mode: str | None = "rgb_array",
    ):
        self.task, self.inner, self.dense_reward = task, task.make_env(image_size), task.dense_reward
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": int(self.inner.metadata.get("render_fps", 20))}
        self._box = _box(self.inner)
        self.seen = self.inner.reset(seed=0)[0]  # the inner environment's last observation
        S, limit = self.task.state(self.seen).shape[0], np.float32(np.inf)
        limits = (np.full(S, -limit), np.full(S, limit))
        horizon = task.horizon or getattr(self.inner.spec, "max_episode_steps", None)
        if not horizon:
            raise EnvError(f"task {name!r} has no limit of steps; give GymTask a horizon")
        actions = self._box.shape[0]
        super().__init__(name, cameras, (CAMERA,), image_size, horizon, limits, actions, render_mode)
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """options: see `envs.task_env.told`."""
        super().reset(seed=seed)
        self.seen, _ = self.inner.reset(seed=seed)
        self.instruction, self._steps = told(options, self.task.instruction), 0
        return self._observe(), {"success": False, "instruction": self.instruction}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        limited = np.clip(self.checked(action), -1.0, 1.0)
        middle, half = (self._box.high + self._box.low) / 2, (self._box.high - self._box.low) / 2
        self.seen, reward, terminated, truncated, found = self.inner.step(middle + half * limited)
        self._steps += 1
        success = self.task.success(found)
        info = {"success": success, "sim_error": False}
        ended = terminated or truncated or self._steps >= self.horizon
        return self._observe(), float(reward), success, ended, info

    def _observe(self) -> dict[str, Any]:
        state = np.asarray(self.task.state(self.seen), np.float32)
        return self.images() | {"observation.state": state, "task": self.instruction}

    def render_camera(self, camera: str, size: int) -> np.ndarray:
        frame: Any = self.inner.render()
        close_at_exit(self)
        if frame.shape == (size, size, 3):
            return np.ascontiguousarray(frame)
        return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BOX))

    def close(self) -> None:
        self.inner.close()

    def expert(self, seed: int) -> Script:
        return super().expert(seed) if self.task.script is None else _PlainScript(self, self.task.script)

    def first_state_digest(self) -> str:
        return digest(np.asarray(spaces.flatten(self.inner.observation_space, self.seen)), self.task.instruction)


class _PlainScript:
    """Says its instruction: a function of the observation has no stages to tell of."""

    def __init__(self, env: PlainEnv, script: Callable[[Any], np.ndarray]):
        self._env, self._script = env, script

    def disturb(self, rate: float) -> None:
        """Nothing ever does."""

    def act(self) -> tuple[np.ndarray, str, bool]:
        action = np.clip(self._script(self._env.seen), -1.0, 1.0)
        return action.astype(np.float32), self._env.task.instruction, False
