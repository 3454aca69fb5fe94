"""H.264 through PyAV: one mp4 per episode and camera, addressed by integer frame index.

Notable choices
- No B-frames and a key frame every second frame (bf=0, g=2): pts order is frame order, seeking is cheap. crf 18.
- One encoder thread: x264's output depends on the number of threads, and ours should depend on the frames only.
- The pts of a finished file are verified against frame_index / fps before it may be stored.
"""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream

from .errors import DataError

OPTIONS = {"crf": "18", "g": "2", "bf": "0", "preset": "veryfast"}


class VideoEncoder:
    """Frames -> the bytes of an mp4, kept in memory (an episode of 96x96 frames is a few hundred kB)."""

    def __init__(self, height: int, width: int, fps: int) -> None:
        if height % 2 or width % 2:
            raise DataError(f"video: image is {height}x{width}; H.264 in yuv420p needs even sides, or use image mode")
        self._buffer = io.BytesIO()
        self._fps, self._length = fps, 0
        self._content: bytes | None = None
        self._container = av.open(self._buffer, "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=fps, options=OPTIONS)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.codec_context.thread_count = 1
        self._stream.codec_context.time_base = Fraction(1, fps)

    def add(self, image: np.ndarray) -> None:
        if self._content is not None:
            raise DataError("episode: is finished but not saved; save or discard it before adding frames")
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = self._length, Fraction(1, self._fps)
        self._container.mux(self._stream.encode(frame))
        self._length += 1

    def finish(self) -> bytes:
        if self._content is None:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._content = self._buffer.getvalue()
            verify_video(io.BytesIO(self._content), self._length, self._fps, "video just encoded")
        return self._content


def verify_video(source: io.BytesIO | Path, length: int, fps: int, where: str) -> None:
    """Every frame is there, once, at frame_index / fps. Reads packets only; decodes the first frame."""
    try:
        with av.open(source if isinstance(source, io.BytesIO) else str(source), "r") as container:
            stream = container.streams.video[0]
            times = sorted(_time(p.pts, stream) for p in container.demux(stream) if p.pts is not None)
            container.seek(0, stream=stream)
            next(container.decode(stream))
    except (av.FFmpegError, StopIteration, IndexError, ValueError, OSError) as error:
        raise DataError(f"{where}: does not decode ({error}); run `tandem data repair`") from None
    if len(times) != length:
        raise DataError(f"{where}: {len(times)} frames, expected {length}; run `tandem data repair`")
    worst = float(np.abs(np.array(times) - np.arange(length) / fps).max())
    if worst > 1e-4:
        raise DataError(f"{where}: frame times are off by {worst:.6f} s; re-record the episode")


def decode_video(path: Path, start: int, length: int, fps: int) -> np.ndarray:
    """Frames start .. start + length - 1, uint8 (T, H, W, 3). Which frame is which is decided by rounding pts * fps."""
    if not path.is_file():
        raise DataError(f"{path}: file is missing; restore it or run `tandem data repair`")
    frames: dict[int, np.ndarray] = {}
    try:
        with av.open(str(path), "r") as container:
            stream = container.streams.video[0]
            if start and stream.time_base is not None:
                container.seek(int(start / fps / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                index = round(_time(frame.pts, stream) * fps) - start
                if 0 <= index < length:
                    frames[index] = frame.to_ndarray(format="rgb24")
                if index >= length - 1:
                    break
    except (av.FFmpegError, IndexError, ValueError, OSError) as error:
        raise DataError(f"{path}: does not decode ({error}); run `tandem data repair`") from None
    if len(frames) != length:
        missing = next(i for i in range(length) if i not in frames)
        raise DataError(f"{path}: frame {start + missing} is missing; run `tandem data repair`")
    return np.stack([frames[i] for i in range(length)])


def _time(pts: int | None, stream: VideoStream) -> float:
    assert pts is not None and stream.time_base is not None
    return float(pts * stream.time_base)
