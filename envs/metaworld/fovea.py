"""One camera, looked at twice: the whole image, and its middle third around the hand at three times the detail.

The camera is rendered once at `ZOOM` times the side of the observation's images. The whole is the mean of ZOOM x ZOOM
pixels, so that a marker of two pixels does not flicker; the fovea is cut out around the point between the fingers,
found by projecting proprioception through the camera's known place. Both are fair at test time. Nothing leaves the
image: near a border the fovea stops at it.

At 96 pixels a pixel of the whole is 13 mm on the table and a pixel of the fovea 4 mm; what is grasped is 20 to 40 mm.
"""

import numpy as np
from PIL import Image

ZOOM = 3
FINGERS = np.array([0.0, 0.0, -0.05])  # from the hand to the point between the fingers [m], world axes


def whole(image: np.ndarray) -> np.ndarray:
    """uint8 (ZOOM * S, ZOOM * S, 3) -> (S, S, 3)."""
    return np.asarray(Image.fromarray(image).reduce(ZOOM))


def corner(hand: np.ndarray, size: int) -> tuple[int, int]:
    """hand (3,): u, v in [-1, 1] across the image, visible -> column and row of the fovea's first pixel, S = size."""
    middle = (hand[:2] + 1) * (ZOOM * size / 2)
    column, row = np.clip(np.round(middle - size / 2), 0, (ZOOM - 1) * size).astype(int)
    return int(column), int(row)


def cut(image: np.ndarray, hand: np.ndarray) -> np.ndarray:
    """uint8 (ZOOM * S, ZOOM * S, 3) -> (S, S, 3)."""
    size = len(image) // ZOOM
    column, row = corner(hand, size)
    return np.ascontiguousarray(image[row : row + size, column : column + size])


def seen(points: np.ndarray, hand: np.ndarray, size: int) -> np.ndarray:
    """Points (M, 3) of the whole, u, v in [-1, 1] and visible -> the same of the fovea."""
    first = np.array(corner(hand, size), np.float32)
    place = ((points[:, :2] + 1) * (ZOOM * size / 2) - first) * (2 / size) - 1
    visible = (points[:, 2] > 0) & (np.abs(place) < 1).all(-1)
    return np.concatenate([np.clip(place, -1, 1), visible[:, None]], axis=-1).astype(np.float32)
