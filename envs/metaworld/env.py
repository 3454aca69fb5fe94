"""Meta-World's tasks as a `TaskEnv`, under the protocol in which vision-language-action policies are compared on MT50.

Camera `corner2` moved to [0.75, 0.075, 0.7] and its image turned by 180 degrees. State: hand position and gripper
opening, nothing of the objects. Random objects and goal. Horizon 500. Success at any step. Action: delta position (1 cm
a step, world) and gripper (-1 open, +1 close). Reward: Meta-World's own in [0, 10], divided by 10.

Notable choices
- The observation is the part of the camera's image where things happen (envs/metaworld/view.py).
- Shadows, reflections, skybox and multisampling are off: ten times the frames, as the arm and the scenes are meshes.
- The package asks for one old MuJoCo, because of one method that writes rows of fixed length (`_Welds`). Without its
  dependencies it runs on new ones.
- Its `reset` ignores the seed and draws from numpy's global generator. Here it draws from the environment's own, from a
  simulation put back as compiled, so that an episode is a function of the seed alone.
- After its `reset` the goal marker still stands where it stood in the last episode, until the kinematics are computed.
"""

import warnings
from collections.abc import Callable
from copy import copy
from typing import Any

import mujoco
import numpy as np

from ..contract import Vector, build_contract
from ..privileged import privileged_columns
from ..projection import project
from ..rendering import Cameras
from ..simulation import diverged
from ..task_env import Script, TaskEnv, digest, told
from .expert import MetaWorldExpert
from .view import SMOOTH, VIEW, in_workspace, look_at_workspace, smooth

CAMERA, CAMERA_POSITION = "corner2", (0.75, 0.075, 0.7)  # [m]
FPS, HORIZON = 80, 500
ENTITIES = ("object", "other", "goal")  # what is handled first; a second thing, where the task has one; where to
STATE_NAMES = ("eef_x", "eef_y", "eef_z", "gripper_opening")
STATE_LOW = np.array([-0.525, 0.348, -0.0525, 0.0], np.float32)
STATE_HIGH = np.array([0.525, 1.025, 0.7, 1.0], np.float32)
LAYOUT = ("body_pos", "site_pos")  # what Meta-World's resets write into the compiled model


def contract_fields(image_size: int) -> dict[str, Any]:
    """What every task of Meta-World gives and takes."""
    units = (*["m, world"] * 3, "0 closed, 1 open")
    state = Vector(STATE_NAMES, units, tuple(STATE_LOW.tolist()), tuple(STATE_HIGH.tolist()))
    names, units = ("delta_x", "delta_y", "delta_z", "gripper"), (*["0.01 m, world"] * 3, "-1 open, 1 close")
    action = Vector(names, units, (-1.0,) * 4, (1.0,) * 4)
    return build_contract("sawyer_metaworld", FPS, {CAMERA: VIEW}, image_size, state, action, ENTITIES)


class _Welds:
    """New MuJoCo has 12 numbers in the row of a weld, not 11. The last stays as compiled."""

    model: mujoco.MjModel

    def reset_mocap_welds(self) -> None:
        welds = self.model.eq_type == mujoco.mjtEq.mjEQ_WELD
        self.model.eq_data[welds, :11] = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 5.0)


def simulation(title: str) -> Any:
    """Meta-World's own environment `title`, e.g. "reach-v3", with a visible goal and a new layout at every reset."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    warnings.filterwarnings("ignore", message="Constant.s. may be too high")  # its scripts overshoot; we clip
    original = ALL_V3_ENVIRONMENTS[title]
    sim: Any = type(original.__name__, (_Welds, original), {})()
    sim._partially_observable = False  # its scripts read the goal from the observation
    del sim.sawyer_observation_space  # cached before the line above
    sim._freeze_rand_vec, sim.seeded_rand_vec, sim._set_task_called = False, True, True
    sim.model.camera(CAMERA).pos[:] = CAMERA_POSITION
    look_at_workspace(sim.model, CAMERA)
    sim.model.vis.quality.offsamples = sim.model.vis.quality.shadowsize = 0
    return sim


class MetaWorldEnv(TaskEnv):
    """A task of Meta-World as a `TaskEnv`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}
    entities = ENTITIES

    def __init__(
        self,
        name: str,
        title: str,
        words: tuple[str, str],
        cameras: tuple[str, ...] = (CAMERA,),
        image_size: int = 128,
        render_mode: str | None = "rgb_array",
    ):
        """title: Meta-World's name of the task.
        words: its instruction, and the thing that is handled first."""
        super().__init__(name, cameras, (CAMERA,), image_size, HORIZON, (STATE_LOW, STATE_HIGH), 4, render_mode)
        self.title, self.words = title, words
        self.sim = simulation(title)
        self.sim.max_path_length = 2**31  # the horizon is ours: an expert that takes over gets more time
        self._steps = 0
        self.full = np.zeros(39)  # Meta-World's observation, with objects and goal: for its scripts only
        self._compiled = {name: getattr(self.sim.model, name).copy() for name in LAYOUT}
        self._cameras = Cameras(self.sim.model)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """options: see `envs.task_env.told`."""
        super().reset(seed=seed)
        for name, values in self._compiled.items():
            getattr(self.sim.model, name)[:] = values
        mujoco.mj_resetData(self.sim.model, self.sim.data)
        self.sim.np_random = self.np_random
        self.sim.reset()
        mujoco.mj_forward(self.sim.model, self.sim.data)  # the goal marker's place
        now = self.sim._get_curr_obs_combined_no_goal()
        self.sim._prev_obs = now
        self.full = np.concatenate([now, now, self.sim._get_pos_goal()])
        self.instruction, self._steps = told(options, self.words[0]), 0
        return self._observe(), {"success": False, "instruction": self.instruction}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One control step, as gymnasium's: observation, reward, terminated on success, truncated, info."""
        limited = np.clip(self.checked(action), -1.0, 1.0)
        self.full, reward, _, _, found = self.sim.step(limited)
        self._steps += 1
        broken = diverged(self.sim.data)
        success = not broken and bool(found["success"])
        info, ended = {"success": success, "sim_error": broken}, broken or self._steps >= self.horizon
        return self._observe(), 0.0 if broken else float(reward) / 10, success, ended, info

    def _observe(self) -> dict[str, Any]:
        state = np.clip(self.full[:4].astype(np.float32), STATE_LOW, STATE_HIGH)
        return self.observed(state)

    def render_camera(self, camera: str, size: int) -> np.ndarray:
        """Turned by 180 degrees: the camera hangs upside down."""
        image = self._cameras.image(self.sim.data, camera, SMOOTH * size)[::-1, ::-1]
        return smooth(np.ascontiguousarray(image))

    def close(self) -> None:
        """Frees the renderers."""
        self._cameras.close()

    def expert(self, seed: int) -> Script:
        """Meta-World's own script, pushed aside now and then. The seed decides when."""
        return MetaWorldExpert(self, seed)

    def snapshot(self) -> Callable[[], None]:
        """Beside MuJoCo's state Meta-World keeps numbers and arrays of its own, which differ from task to task. A step
        replaces them, and writes into none. Some are views of MuJoCo's state, and stay that."""
        data, kept, steps, full = copy(self.sim.data), dict(vars(self.sim)), self._steps, self.full

        def back() -> None:
            mujoco.mj_copyData(self.sim.data, self.sim.model, data)
            vars(self.sim).clear()
            vars(self.sim).update(kept)
            self._steps, self.full = steps, full

        return back

    def privileged(self) -> dict[str, np.ndarray]:
        """Places of the entities and their keypoints in the images, known to the simulator only."""
        places = self.sim._get_pos_objects().reshape(-1, 3)
        found = dict(zip(ENTITIES, places, strict=False)) | {"goal": self.sim._get_pos_goal()}
        referents = ("goal", None) if self.words[1] == "goal" else ("object", "goal")
        return privileged_columns(ENTITIES, found, {CAMERA: self._project}, referents)

    def _project(self, points: np.ndarray) -> np.ndarray:
        turned = np.array([-1, -1, 1], np.float32)  # as the image is
        return in_workspace(project(self.sim.model, self.sim.data, CAMERA, points) * turned)

    def first_state_digest(self) -> str:
        """sha256 of the state after `reset` and of the instruction."""
        model, data = self.sim.model, self.sim.data
        moved = [getattr(model, name) for name in LAYOUT]
        return digest(data.qpos, data.qvel, data.mocap_pos, self.sim._get_pos_goal(), *moved, self.words[0])
