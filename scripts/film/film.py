"""Frames of a watched episode, and H.264 files from frames.

Layout of a frame, 768 x 384: the first camera, large. Beside it what the last one sees, what the policy sees (in few
pixels), the decoded subgoal, and the future that the world model imagines for the chunk being executed.
"""

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from ...envs import TaskEnv

LARGE, SMALL = 384, 192  # pixels


class Film:
    """Collects frames as `policy.evaluate.episode.run_episode`'s watcher."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []
        self.captions: tuple[str, ...] = ()
        self.entries: list[dict[str, Any]] = []
        self._goal = self._future = np.zeros((SMALL, SMALL, 3), np.uint8)

    def __call__(self, env: TaskEnv, entry: dict[str, Any]) -> None:
        inner = env
        if entry["goal_image"] is not None:
            self._goal = _scaled(entry["goal_image"])
        if entry["future_image"] is not None:
            self._future = _scaled(entry["future_image"])
        first, last = inner.known_cameras[0], inner.known_cameras[-1]
        self.captions = (f"{first} camera", f"{last} · subgoal", "policy's view · imagined future")
        near = _scaled(inner.picture(last, SMALL))
        seen = _scaled(inner.picture(first, inner.image_size))
        side = np.vstack([np.hstack([near, seen]), np.hstack([self._goal, self._future])])
        self.frames.append(np.hstack([inner.picture(first, LARGE), side]))
        self.entries.append({key: entry[key] for key in ("subtask", "progress", "replanned")})


def _scaled(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((SMALL, SMALL), Image.Resampling.NEAREST))


def encode(frames: list[np.ndarray], fps: int) -> bytes:
    """uint8 (H, W, 3) frames -> an mp4 that browsers play: H.264, yuv420p."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "23", "preset": "fast"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        stream.time_base = Fraction(1, fps)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def save(data: bytes, path: Path) -> None:
    """Writes a film."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
