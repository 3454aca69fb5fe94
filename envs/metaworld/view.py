"""The camera, looking only at where things happen.

Half of the width and of the height of `corner2`'s image hold hands, things and goals of the 50 tasks (but for the goals
of `sweep` and `stick-pull`, off the table's edge). The rest is the robot's base, the floor and the wall. That half is
the observation: at 128 pixels one pixel is 5 mm on the table instead of 10, and what is grasped is 20 to 40 mm. It is a
crop, made by the camera's intrinsics, so that the rest is never drawn. Drawn at twice the size and averaged, so that a
marker of a few pixels does not flicker.
"""

import mujoco
import numpy as np
from PIL import Image

VIEW = "sRGB, the part of the image where things happen"
MIDDLE = np.array([0.16, 0.02], np.float32)  # of the part: u right, v down, in [-1, 1] across the camera's whole image
SIDE = 0.52  # of the part, as a share of the whole image's
SMOOTH = 2  # pixels drawn for each pixel shown, along each side


def look_at_workspace(model: mujoco.MjModel, camera: str) -> None:
    """Narrows the camera, whose image is shown turned by 180 degrees."""
    index = model.camera(camera).id
    half = np.tan(np.radians(model.cam_fovy[index]) / 2)  # of the whole image, at distance 1
    model.cam_sensorsize[index] = 2 * half * SIDE
    model.cam_intrinsic[index] = (1.0, 1.0, *(-half * MIDDLE))


def smooth(image: np.ndarray) -> np.ndarray:
    """uint8 (SMOOTH * S, SMOOTH * S, 3) -> (S, S, 3)."""
    return np.asarray(Image.fromarray(image).reduce(SMOOTH))


def in_workspace(points: np.ndarray) -> np.ndarray:
    """Points (M, 3) of the whole image, u, v in [-1, 1] and visible -> the same of the part."""
    place = (points[:, :2] - MIDDLE) / SIDE
    visible = (points[:, 2] > 0) & (np.abs(place) < 1).all(-1)
    return np.concatenate([np.clip(place, -1, 1), visible[:, None]], axis=-1).astype(np.float32)
