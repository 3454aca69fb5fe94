"""Frames -> one encoded episode, small enough to keep in memory or to send from a worker process to the writer.

Notable choices
- Every frame is checked against the contract and its images are encoded as it arrives, so memory holds compressed
  bytes only. PNG (compress_level 1) is the default: lossless. JPEG (quality 95) is smaller.
- An `EncodedEpisode` is plain picklable data and knows nothing of its place in a dataset. Workers encode, the parent
  writes in seed order, and the bytes on disk do not depend on the number of workers.
- Histograms of the pixel values ride along: exact image statistics without decoding again. They describe the frames as
  they were given, so they are used for PNG only.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from .contract import Contract
from .errors import DataError
from .files import check_text
from .info import MAX_PIXELS
from .layout import EPISODE_COLUMNS, EPISODE_PREFIXES, numeric_features
from .video import VideoEncoder

Meta = dict[str, Any]  # episode columns of our own: bool, int, float or str, e.g. {"sim/seed": 3, "sim/success": True}


@dataclass(frozen=True)
class EncodedEpisode:
    """An episode as it is stored: columns, images or videos, and counts for the statistics."""

    contract_digest: str
    mode: str  # "image" | "video"
    length: int  # frames
    task: str  # the instruction
    meta: Meta
    columns: dict[str, np.ndarray]  # (T, n) each
    subtasks: list[str]  # one word string per frame; empty where the contract has no subtask
    images: dict[str, list[bytes]] = field(default_factory=dict)  # image mode: PNG or JPEG per frame
    videos: dict[str, bytes] = field(default_factory=dict)  # video mode: one mp4
    histograms: dict[str, np.ndarray] = field(default_factory=dict)  # (3, 256) int64 counts; PNG only

    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        images = sum(len(blob) for blobs in self.images.values() for blob in blobs)
        return images + sum(map(len, self.videos.values())) + sum(c.nbytes for c in self.columns.values())


class EpisodeEncoder:
    """Collects the frames of one episode: `add` each, then `finish`. `Recorder.save_encoded` writes the result."""

    def __init__(self, contract: Contract, mode: str = "image", image_format: str = "png") -> None:
        if mode not in ("image", "video") or image_format not in ("png", "jpeg"):
            raise DataError(f"mode {mode!r}, image_format {image_format!r}; use image or video, png or jpeg")
        self.contract, self.mode, self.image_format = contract, mode, image_format
        self.length = 0
        self._rows: dict[str, list[np.ndarray]] = {key: [] for key in numeric_features(contract)}
        self._subtasks: list[str] = []
        self._images: dict[str, list[bytes]] = {key: [] for key in contract.keys("image")}
        self._videos: dict[str, VideoEncoder] = {}
        self._histograms = {key: np.zeros((3, 256), np.int64) for key in contract.keys("image")}

    def add(self, frame: Mapping[str, Any]) -> None:
        """All values are checked before any is kept: a refused frame leaves the episode as it was."""
        where = f"frame {self.length}"
        unknown = frame.keys() - self.contract.features.keys() - {"task"}
        if unknown:
            raise DataError(f"{where}: {sorted(unknown)} not in the contract; it has {self.contract.keys()}")
        keys = [key for key in self.contract.features if key != "task"]  # the task is given once, at the end
        values = {key: self.contract.check_value(key, frame, where) for key in keys}
        if "subtask" in values:
            check_text(values["subtask"], f"{where}: subtask")
        for key, value in values.items():
            if key in self._rows:
                self._rows[key].append(np.array(value))  # a copy: environments reuse their buffers
            elif key in self._images:
                self._add_image(key, value)
            elif key == "subtask":
                self._subtasks.append(value)
        self.length += 1

    def finish(self, task: str, meta: Meta) -> EncodedEpisode:
        """The encoded episode, with its instruction and its row of meta/episodes."""
        _check_meta(task, meta, self.length)
        image_mode = self.mode == "image"
        return EncodedEpisode(
            contract_digest=self.contract.digest(),
            mode=self.mode,
            length=self.length,
            task=task,
            meta=dict(meta),
            columns={key: np.stack(rows) for key, rows in self._rows.items()},
            subtasks=list(self._subtasks),
            images={key: list(blobs) for key, blobs in self._images.items()} if image_mode else {},
            videos={key: video.finish() for key, video in self._videos.items()},
            histograms=dict(self._histograms) if image_mode and self.image_format == "png" else {},
        )

    def _add_image(self, key: str, image: np.ndarray) -> None:
        if self.mode == "video":
            if key not in self._videos:
                self._videos[key] = VideoEncoder(image.shape[0], image.shape[1], self.contract.fps)
            self._videos[key].add(image)
            return
        self._images[key].append(encode_image(image, self.image_format))
        if self.image_format == "png":
            self._histograms[key] += pixel_histogram(image)


def encode_image(image: np.ndarray, image_format: str) -> bytes:
    """uint8 (H, W, 3) -> the bytes of a PNG or JPEG."""
    buffer = io.BytesIO()
    if image_format == "png":
        Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
    else:
        Image.fromarray(image).save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()


def decode_image(blob: object, where: str, shape: tuple[int, ...] | None = None, help: str = "") -> np.ndarray:
    """uint8 (H, W, 3). shape: the one that it must have. The file's header is compared with it before anything is
    decoded, because a PNG of 20 kB can be a picture of gigabytes. help: what to do about a damaged one."""
    end = f"; {help}" if help else ""
    if not isinstance(blob, bytes):
        raise DataError(f"{where}: there is no image in the file{end}")
    try:
        with Image.open(io.BytesIO(blob), formats=("PNG", "JPEG")) as image:
            width, height = image.size
            if shape is not None and (height, width, 3) != tuple(shape):
                raise DataError(f"{where}: image is {(height, width, 3)}; the contract says {tuple(shape)}")
            if width * height > MAX_PIXELS:
                raise DataError(f"{where}: image is {height}x{width}, more than {MAX_PIXELS >> 20} Mpixel; refused")
            return np.asarray(image.convert("RGB"))
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, struct.error, LookupError, TypeError, OverflowError, MemoryError,
            EOFError, AttributeError, zlib.error, Image.DecompressionBombError) as error:  # fmt: skip
        raise DataError(f"{where}: image does not decode ({str(error)[:100]}){end}") from None


def pixel_histogram(images: np.ndarray) -> np.ndarray:
    """(3, 256) counts of each value per channel of uint8 (..., 3)."""
    flat = images.reshape(-1, 3)
    return np.stack([np.bincount(flat[:, c], minlength=256) for c in range(3)])


def _check_meta(task: str, meta: Meta, length: int) -> None:
    if length == 0:
        raise DataError("episode: no frames; add_frame before save_episode")
    check_text(task, "episode: task (the instruction)")
    bad = [key for key, value in meta.items() if type(value) not in (bool, int, float, str)]
    if bad:
        raise DataError(f"episode: meta {bad} must be plain bool, int, float or str")
    for key, value in meta.items():
        check_text(key, "episode: a key of meta")
        check_text(str(value), f"episode: meta {key}")
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise DataError(f"episode: meta {key} does not fit into 64 bits")
    taken = [key for key in meta if key in EPISODE_COLUMNS or key.startswith(EPISODE_PREFIXES)]
    if taken:
        raise DataError(f"episode: meta {taken} are columns of the format; choose other names")
