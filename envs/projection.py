"""World points to image coordinates through a MuJoCo camera."""

import mujoco
import numpy as np


def project(model: mujoco.MjModel, data: mujoco.MjData, camera: str, points: np.ndarray) -> np.ndarray:
    """points (M, 3) [m] -> float32 (M, 3): u right and v down in [-1, 1] across the square image, visible 0 or 1."""
    index = model.camera(camera).id
    local = (points - data.cam_xpos[index]) @ data.cam_xmat[index].reshape(3, 3)  # x right, y up, -z ahead
    depth = np.maximum(-local[:, 2], 1e-6)
    half = depth * np.tan(np.radians(model.cam_fovy[index]) / 2)
    u, v = local[:, 0] / half, -local[:, 1] / half
    visible = (local[:, 2] < -0.01) & (np.abs(u) < 1) & (np.abs(v) < 1)
    return np.stack([np.clip(u, -1, 1), np.clip(v, -1, 1), visible], axis=-1).astype(np.float32)
