"""One simulated tabletop: model, data, arm control. Tasks ask it questions by name ("where is the red one?").

Control runs at 20 Hz. An action asks for a pinch point at most 5 cm from where it is (as robosuite's controllers do:
what an action means follows from what can be observed, and pressing against something does not wind up) and turns the
commanded orientation by at most 0.25 rad, both in the world's axes. mink makes joint targets of it.
"""

import hashlib
from collections.abc import Callable
from copy import copy

import mujoco
import numpy as np

from .entities import COLOURS
from .kinematics import HOME, ArmKinematics
from .scene import BUTTON_TRAVEL, OBJECT_RADIUS, compile_scene, shape_geoms

CONTROL_HZ = 20
POSITION_SCALE, ROTATION_SCALE = 0.05, 0.25  # metres and radians a step at |action| = 1
WORKSPACE = np.array([[0.25, -0.38, 0.012], [0.75, 0.38, 0.45]])  # lowest and highest pinch point [m]
FINGER_OPEN = 0.04  # [m]


class Simulation:
    """The scene of Tabletop in MuJoCo: the arm, its control, and what lies on the table."""

    def __init__(self, fixtures: tuple[str, ...]):
        self.model = compile_scene(fixtures).__copy__()
        self.data = mujoco.MjData(self.model)
        self.substeps = round(1 / CONTROL_HZ / self.model.opt.timestep)
        self.kinematics = ArmKinematics()
        self._site = self.model.site("pinch").id
        self.colour_of: dict[int, str] = {}  # object or button -> colour
        self.shape_of: dict[int, str] = {}
        self.has_objects, self.has_buttons = "objects" in fixtures, "buttons" in fixtures
        self.fixtures = fixtures

    # -- reset -----------------------------------------------------------------------------------------------------
    def clear(self) -> None:
        """Everything as compiled. Objects out of sight until they are placed."""
        mujoco.mj_resetData(self.model, self.data)
        self.colour_of, self.shape_of = {}, {}

    def start_arm(self, position: np.ndarray) -> None:
        """Puts the hand at `position` [m], fingers down and open."""
        _, rotation = self.kinematics.forward(HOME)
        joints = HOME
        for _ in range(8):
            joints = self.kinematics.solve(joints, position, rotation)
        self._joints, self._rotation = joints, rotation
        self.data.qpos[:7], self.data.qpos[7:9] = joints, FINGER_OPEN
        self.data.ctrl[:7], self.data.ctrl[7] = joints, FINGER_OPEN
        mujoco.mj_forward(self.model, self.data)

    def place_object(self, index: int, colour: str, shape: str, xy: np.ndarray, yaw: float) -> None:
        """Puts an object of this colour, shape and yaw [rad] at (x, y) [m]."""
        for name, geom in shape_geoms(self.model, index).items():
            active = name == shape
            self.model.geom_rgba[geom] = (*COLOURS[colour], 1.0) if active else 0.0
            self.model.geom_contype[geom] = self.model.geom_conaffinity[geom] = int(active)
        start = self.model.joint(f"object{index}").qposadr[0]
        self.data.qpos[start : start + 7] = (*xy, OBJECT_RADIUS, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
        self.colour_of[index], self.shape_of[index] = colour, shape

    def place_button(self, index: int, colour: str, xy: np.ndarray) -> None:
        """Puts a button of this colour at (x, y) [m]."""
        self.model.body(f"button{index}").pos[:2] = xy
        self.model.geom(f"button{index}_cap").rgba[:] = (*COLOURS[colour], 1.0)
        self.colour_of[index], self.shape_of[index] = colour, "button"

    def place_fixture(self, name: str, xy: np.ndarray, yaw: float = 0.0) -> None:
        """Puts a fixture at (x, y) [m], turned by yaw [rad]."""
        self.model.body(name).pos[:2] = xy
        self.model.body(name).quat[:] = (np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))

    # -- control ---------------------------------------------------------------------------------------------------
    def control(self, action: np.ndarray) -> None:
        """Runs one control step of 50 ms. action (7,) in [-1, 1]."""
        target = np.clip(self.pinch + POSITION_SCALE * action[:3].astype(np.float64), *WORKSPACE)
        self._rotation = rotate(self._rotation, ROTATION_SCALE * action[3:6].astype(np.float64))
        self._joints = self.kinematics.solve(self._joints, target, self._rotation)
        self.data.ctrl[:7] = self._joints
        self.data.ctrl[7] = FINGER_OPEN * (1 - float(action[6])) / 2
        mujoco.mj_step(self.model, self.data, self.substeps)
        mujoco.mj_forward(self.model, self.data)

    def snapshot(self) -> Callable[[], None]:
        """What puts everything that moves back to where it is now."""
        data, joints, rotation = copy(self.data), self._joints, self._rotation

        def back() -> None:
            mujoco.mj_copyData(self.data, self.model, data)
            self._joints, self._rotation = joints, rotation

        return back

    # -- named queries ---------------------------------------------------------------------------------------------
    @property
    def pinch(self) -> np.ndarray:
        """Where the fingertips meet, (3,) [m]."""
        return self.data.site_xpos[self._site]

    @property
    def rotation(self) -> np.ndarray:
        """(3, 3) axes of the hand in the world. The third points out of the hand, the second along the stroke."""
        return self.data.site_xmat[self._site].reshape(3, 3)

    @property
    def opening(self) -> float:
        """0 closed to 1 open."""
        return float(self.data.qpos[7] + self.data.qpos[8]) / (2 * FINGER_OPEN)

    def body(self, name: str) -> np.ndarray:
        """Position (3,) of a body [m]."""
        return self.data.body(name).xpos

    def object(self, index: int) -> np.ndarray:
        """Position (3,) of an object's centre [m]."""
        return self.data.body(f"object{index}").xpos

    def object_yaw(self, index: int) -> float:
        """Angle of an object about the vertical [rad]."""
        matrix = self.data.body(f"object{index}").xmat
        return float(np.arctan2(matrix[3], matrix[0]))

    def object_speed(self, index: int) -> float:
        """Speed of an object [m/s]."""
        start = self.model.joint(f"object{index}").dofadr[0]
        return float(np.linalg.norm(self.data.qvel[start : start + 3]))

    def button_press(self, index: int) -> float:
        """0 released to 1 fully pressed."""
        return float(self.data.joint(f"button{index}").qpos[0]) / BUTTON_TRAVEL

    @property
    def drawer(self) -> float:
        """How far the drawer is open [m]."""
        return float(self.data.joint("drawer").qpos[0])

    @property
    def handle(self) -> np.ndarray:
        """Position (3,) of the drawer's handle [m]."""
        return self.data.geom("handle").xpos

    @property
    def drawer_yaw(self) -> float:
        """Angle of the drawer about the vertical [rad]."""
        matrix = self.data.body("cabinet").xmat
        return float(np.arctan2(matrix[3], matrix[0]))

    def entity_positions(self) -> dict[str, np.ndarray]:
        """Centres of what is present, by entity name, (3,) [m]."""
        found = {
            c: self.object(i) if self.has_objects else self.data.body(f"button{i}_cap").xpos
            for i, c in self.colour_of.items()
        }
        if "bowl" in self.fixtures:
            found["bowl"] = self.body("bowl") + [0, 0, 0.02]
        if "mark" in self.fixtures:
            found["mark"] = self.body("mark")
        if "drawer" in self.fixtures:
            found["handle"] = self.handle
        return found

    def state(self) -> np.ndarray:
        """observation.state, float32 (17,): see `envs.tabletop.STATE_NAMES`."""
        rotation6 = self.rotation[:, :2].T.reshape(-1)
        parts = (self.pinch, rotation6, [self.opening], self.data.qpos[:7])
        return np.concatenate(parts).astype(np.float32)

    def diverged(self) -> bool:
        """Did the simulation break since the episode began?"""
        return diverged(self.data)

    def digest(self) -> str:
        """sha256 of the full state: equal states have equal digests."""
        content = self.data.qpos.tobytes() + self.data.qvel.tobytes() + self.data.ctrl.tobytes()
        return hashlib.sha256(content).hexdigest()


def diverged(data: mujoco.MjData) -> bool:
    """MuJoCo warned since the last reset of the data, or a position is not finite."""
    return any(w.number for w in data.warning) or not np.isfinite(data.qpos).all()


def rotate(rotation: np.ndarray, axis_angle: np.ndarray) -> np.ndarray:
    """Turns (3, 3) by an axis-angle vector [rad] in the world's axes."""
    quaternion, turn = np.empty(4), np.empty(9)
    angle = float(np.linalg.norm(axis_angle))
    if angle < 1e-9:
        return rotation
    mujoco.mju_axisAngle2Quat(quaternion, axis_angle / angle, angle)
    mujoco.mju_quat2Mat(turn, quaternion)
    return turn.reshape(3, 3) @ rotation
