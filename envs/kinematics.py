"""Inverse kinematics of the arm by mink: a hand pose becomes seven joint targets.

An arm-only model (no objects, no contacts) keeps one solve cheap, and its state is a function of the commands alone,
so trajectories are reproducible bit for bit.
"""

from pathlib import Path

import mujoco
import numpy as np

PANDA = Path(__file__).parent / "assets" / "panda.xml"
HOME = np.array([0.0, 0.20, 0.0, -2.05, 0.0, 2.25, 0.785])  # hand over the table, fingers down
ITERATIONS = 2  # Gauss-Newton steps a control step; poses move by 5 cm at most


class ArmKinematics:
    """Forward and inverse kinematics of the pinch point (between the fingertips)."""

    def __init__(self) -> None:
        import mink  # it loads scipy, which commands that simulate nothing do not wait for

        self._mink = mink
        self.model = mujoco.MjModel.from_xml_path(str(PANDA))
        self.configuration = mink.Configuration(self.model)
        self._task = mink.FrameTask("pinch", "site", position_cost=1.0, orientation_cost=0.3, lm_damping=1e-4)
        self._posture = mink.PostureTask(self.model, cost=1e-3)
        self._limits = [mink.ConfigurationLimit(self.model)]
        self._fingers = np.array([0.04, 0.04])
        self._posture.set_target(np.concatenate([HOME, self._fingers]))

    def solve(self, joints: np.ndarray, position: np.ndarray, rotation: np.ndarray) -> np.ndarray:
        """joints (7,) to start from, target position (3,) [m] and rotation (3, 3) in the world -> joints (7,) [rad]."""
        self.configuration.update(np.concatenate([joints, self._fingers]))
        target = self._mink.SE3.from_rotation_and_translation(self._mink.SO3.from_matrix(rotation), position)
        self._task.set_target(target)
        for _ in range(ITERATIONS):
            tasks = [self._task, self._posture]
            velocity = self._mink.solve_ik(self.configuration, tasks, 1.0, "daqp", limits=self._limits)
            self.configuration.integrate_inplace(velocity, 1.0)
        return self.configuration.q[:7].copy()

    def forward(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """joints (7,) -> position (3,) and rotation (3, 3) of the pinch point in the world."""
        self.configuration.update(np.concatenate([joints, self._fingers]))
        pose = self.configuration.get_transform_frame_to_world("pinch", "site")
        return pose.translation().copy(), pose.rotation().as_matrix()
