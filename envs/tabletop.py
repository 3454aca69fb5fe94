"""The gymnasium environment: a task on a simulated tabletop, observed by cameras and proprioception.

What a `TaskEnv` is, with cameras front and wrist, a state of 17 numbers (STATE_NAMES), and actions of 7: delta position
(5 cm a step, world), delta axis-angle (0.25 rad, world), gripper (-1 open, +1 close). Reward in [0, 1].
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Protocol

import numpy as np

from .contract import Vector, build_contract
from .entities import ENTITIES
from .privileged import privileged_columns
from .projection import project
from .rendering import Cameras
from .scene import FRONT_DEGREES
from .simulation import CONTROL_HZ, Simulation
from .task_env import Script, TaskEnv, digest, told

VIEWS = {"front": f"sRGB, {FRONT_DEGREES} degrees high, the table", "wrist": "sRGB, 75 degrees high, the gripper"}
CAMERAS = tuple(VIEWS)
STATE_NAMES = (
    "eef_x", "eef_y", "eef_z", *(f"rot6d_{i}" for i in range(6)), "gripper_opening",
    *(f"joint_{i}" for i in range(1, 8)),
)  # fmt: skip
STATE_LOW = np.array([-1.0] * 9 + [-0.05] + [-2.91, -1.78, -2.91, -3.08, -2.91, -0.03, -2.91], np.float32)
STATE_HIGH = np.array([1.0] * 9 + [1.05] + [2.91, 1.78, 2.91, -0.06, 2.91, 3.77, 2.91], np.float32)
STATE_UNITS = (*["m, world"] * 3, *["1"] * 6, "0 closed, 1 open", *["rad"] * 7)
ACTION_NAMES = ("delta_x", "delta_y", "delta_z", "delta_rx", "delta_ry", "delta_rz", "gripper")
ACTION_UNITS = (*["0.05 m, world"] * 3, *["0.25 rad, world"] * 3, "-1 open, 1 close")


def contract_fields(image_size: int = 96) -> dict[str, Any]:
    """What every tabletop task gives and takes."""
    state = Vector(STATE_NAMES, STATE_UNITS, tuple(STATE_LOW.tolist()), tuple(STATE_HIGH.tolist()))
    action = Vector(ACTION_NAMES, ACTION_UNITS, (-1.0,) * 7, (1.0,) * 7)
    return build_contract("panda_primitives", CONTROL_HZ, VIEWS, image_size, state, action, ENTITIES)


class TabletopTask(Protocol):
    """What the environment asks of a task. `envs.task.Task` says more of each."""

    fixtures: ClassVar[tuple[str, ...]]
    horizon: ClassVar[int]
    picks_object: ClassVar[bool]

    def reset(self, sim: Simulation, rng: np.random.Generator) -> None:
        """Begins an episode: clears the scene, draws a wording and a layout from `rng`, and places the arm."""

    def success(self, sim: Simulation) -> bool:
        """Is the goal reached in the present state of the simulation?"""

    def reward(self, sim: Simulation) -> float:
        """Dense reward of the present state, in [0, 1]."""

    def script(self, sim: Simulation, seed: int) -> Script:
        """The scripted expert of this episode."""

    def instruction(self, sim: Simulation) -> str:
        """The sentence about the object that is meant."""

    def wrong_instruction(self, sim: Simulation) -> str | None:
        """The same sentence about another object of the scene, or None where the sentence picks none."""

    def referents(self, sim: Simulation) -> tuple[str | None, str | None]:
        """The entities that the instruction names: what is handled, and where it goes. None where there is none."""


class TabletopEnv(TaskEnv):
    """A task of the suite Tabletop as a `TaskEnv`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}
    entities = ENTITIES

    def __init__(
        self,
        name: str,
        task: TabletopTask,
        cameras: tuple[str, ...] = CAMERAS,
        image_size: int = 96,
        render_mode: str | None = "rgb_array",
    ):
        limits = (STATE_LOW, STATE_HIGH)
        super().__init__(name, cameras, CAMERAS, image_size, task.horizon, limits, len(ACTION_NAMES), render_mode)
        self.task, self.picks_object = task, task.picks_object
        self.sim = Simulation(task.fixtures)
        self._cameras = Cameras(self.sim.model)
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """options: see `envs.task_env.told`."""
        super().reset(seed=seed)
        self.task.reset(self.sim, self.np_random)
        self.instruction = told(options, self.task.instruction(self.sim))
        self._steps = 0
        return self._observe(), {"success": False, "instruction": self.instruction}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One control step, as gymnasium's: observation, reward, terminated on success, truncated, info."""
        self.sim.control(np.clip(self.checked(action), -1.0, 1.0))
        self._steps += 1
        broken = self.sim.diverged()
        success = not broken and self.task.success(self.sim)
        reward = 0.0 if broken else float(np.clip(self.task.reward(self.sim), 0.0, 1.0))
        info = {"success": success, "sim_error": broken}
        return self._observe(), reward, success, broken or self._steps >= self.horizon, info

    def _observe(self) -> dict[str, Any]:
        state = np.clip(self.sim.state(), STATE_LOW, STATE_HIGH)
        return self.observed(state)

    def render_camera(self, camera: str, size: int) -> np.ndarray:
        """uint8 (size, size, 3): what a camera shows now."""
        return self._cameras.image(self.sim.data, camera, size)

    def close(self) -> None:
        """Frees the renderers."""
        self._cameras.close()

    def expert(self, seed: int) -> Script:
        """The scripted expert of this episode. EnvError where the task has none."""
        return self.task.script(self.sim, seed)

    def snapshot(self) -> Callable[[], None]:
        """A function that puts the episode back to the present state, bit for bit."""
        steps, moved_back = self._steps, self.sim.snapshot()

        def back() -> None:
            moved_back()
            self._steps = steps

        return back

    def wrong_instruction(self) -> str | None:
        """A true sentence about another object of this scene. None where the instruction picks nothing."""
        return self.task.wrong_instruction(self.sim)

    def privileged(self) -> dict[str, np.ndarray]:
        """Columns of `envs.contract.build_contract`, with the entities of ENTITIES."""
        cameras = {camera: partial(project, self.sim.model, self.sim.data, camera) for camera in CAMERAS}
        return privileged_columns(ENTITIES, self.sim.entity_positions(), cameras, self.task.referents(self.sim))

    def first_state_digest(self) -> str:
        """sha256 of the state after `reset` and of the instruction."""
        return digest(self.sim.digest(), self.task.instruction(self.sim))
