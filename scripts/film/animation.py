"""Episodes side by side in one animated WebP, which pages show without a player: a row a label, a column a layout.

An episode that has ended stands still, in a green frame where it succeeded and in a red one where it did not.
"""

import io

import numpy as np
from PIL import Image

EVERY = 2  # frames of the film to one of the animation
SIDE, EDGE = 192, 4  # pixels
GREEN, RED, GAP = (40, 160, 80), (200, 60, 50), (255, 255, 255)


def thumbnails(frames: list[np.ndarray]) -> list[np.ndarray]:
    """The first camera's part of a film's frames (384, 768, 3), small: (SIDE, SIDE, 3)."""
    kept = [*frames[::EVERY], frames[-1]]  # how it ended is always shown
    return [np.asarray(Image.fromarray(f[:, : f.shape[0]]).resize((SIDE, SIDE), Image.Resampling.BOX)) for f in kept]


BLANK = np.full((SIDE, SIDE, 3), 230, np.uint8)  # of an episode that failed to run


def framed(episode: list[np.ndarray], success: bool, length: int) -> list[np.ndarray]:
    """`length` frames with an edge (SIDE + 2 EDGE, ..., 3), the last one again and again in the end's color."""
    shown = [_edged(frame, GAP) for frame in episode]
    return shown + [_edged(episode[-1], GREEN if success else RED)] * (length - len(shown))


def _edged(frame: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    canvas = np.empty((SIDE + 2 * EDGE, SIDE + 2 * EDGE, 3), np.uint8)
    canvas[:] = color
    canvas[EDGE:-EDGE, EDGE:-EDGE] = frame
    return canvas


def animation(rows: list[list[tuple[list[np.ndarray], bool]]], fps: float) -> bytes:
    """rows of (thumbnails, success), equally many in each -> an animated WebP that repeats.
    fps: of the film."""
    rows = [[(frames or [BLANK], success) for frames, success in row] for row in rows]
    longest = max(len(frames) for row in rows for frames, _ in row) + int(fps / EVERY)  # a second to see how it ended
    cells = [[framed(frames, success, longest) for frames, success in row] for row in rows]
    sheets = [
        Image.fromarray(np.vstack([np.hstack([cell[i] for cell in row]) for row in cells])) for i in range(longest)
    ]
    buffer = io.BytesIO()
    sheets[0].save(
        buffer, "WEBP", save_all=True, append_images=sheets[1:], duration=round(1000 * EVERY / fps), loop=0, quality=60
    )
    return buffer.getvalue()
