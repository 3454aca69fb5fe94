"""H.264 through PyAV: one mp4 per episode and camera, addressed by integer frame index.

Notable choices
- No B-frames and a key frame every second frame (bf=0, g=2): pts order is frame order, seeking is cheap. crf 18.
- One encoder thread: x264's output depends on the number of threads, and ours should depend on the frames only.
- The pts of a finished file are verified against frame_index / fps before it may be stored.
- Videos of others hold many episodes, with B-frames, odd rates and times that drift from those that the data set
  states. A frame is found by its place in the order of time: by counting where the counts agree, else by nearest time.
"""

from __future__ import annotations

import io
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream

from .errors import DataError

DAMAGE = (av.FFmpegError, StopIteration, IndexError, ValueError, OSError, AttributeError)  # the last: of no codec
OPTIONS = {"crf": "18", "g": "2", "bf": "0", "preset": "veryfast"}


class VideoEncoder:
    """Frames -> the bytes of an mp4, kept in memory (an episode of 96x96 frames is a few hundred kB)."""

    def __init__(self, height: int, width: int, fps: float) -> None:
        if height % 2 or width % 2:
            raise DataError(f"video: image is {height}x{width}; H.264 in yuv420p needs even sides, or use image mode")
        self._buffer = io.BytesIO()
        self._fps, self._length = fps, 0
        self._content: bytes | None = None
        self._container = av.open(self._buffer, "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=_rate(fps), options=OPTIONS)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.codec_context.thread_count = 1
        self._stream.codec_context.time_base = 1 / _rate(fps)

    def add(self, image: np.ndarray) -> None:
        """Adds a frame, uint8 (H, W, 3)."""
        if self._content is not None:
            raise DataError("episode: is finished but not saved; save or discard it before adding frames")
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = self._length, 1 / _rate(self._fps)
        self._container.mux(self._stream.encode(frame))
        self._length += 1

    def finish(self) -> bytes:
        """The bytes of the mp4, verified."""
        if self._content is None:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._content = self._buffer.getvalue()
            verify_video(io.BytesIO(self._content), self._length, self._fps, "video just encoded")
        return self._content


def verify_video(source: io.BytesIO | Path, length: int, fps: float, where: str) -> None:
    """Every frame is there, once, at frame_index / fps. Reads packets only. Decodes the first frame."""
    try:
        with av.open(source if isinstance(source, io.BytesIO) else str(source), "r") as container:
            stream = container.streams.video[0]
            times = sorted(_time(p.pts, stream) for p in container.demux(stream) if p.pts is not None)
            container.seek(0, stream=stream)
            next(container.decode(stream))
    except DAMAGE as error:
        raise DataError(f"{where}: does not decode ({error}); run `tandem data repair`") from None
    if len(times) != length:
        raise DataError(f"{where}: {len(times)} frames, expected {length}; run `tandem data repair`")
    worst = float(np.abs(np.array(times) - np.arange(length) / fps).max())
    if worst > 1e-4:
        raise DataError(f"{where}: frame times are off by {worst:.6f} s; re-record the episode")


def frame_times(path: Path) -> tuple[float, ...]:
    """The moments at which the frames of a video are shown [s], in order. Reads packets, decodes nothing.

    DataError where the file is missing or no video.
    """
    if not path.is_file():
        raise DataError(f"{path}: file is missing; restore it, or copy the data set again from where it came")
    status = path.stat()
    return _frame_times(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _frame_times(path: Path, size: int, changed: int) -> tuple[float, ...]:
    """Read once while the file stays as it is: it may hold hundreds of episodes."""
    try:
        with av.open(str(path), "r") as container:
            stream = container.streams.video[0]
            return tuple(
                sorted(_time(p.pts, stream) for p in container.demux(stream) if p.pts is not None and not p.is_discard)
            )
    except DataError:
        raise
    except DAMAGE as error:
        raise _undecodable(path, error) from None


def place_by_count(path: Path, before: int, length: int, total: int) -> slice | None:
    """Where an episode's frames are among those of its file, if the episodes of the file have as many frames in all
    (`total`) as the file.
    before: frames of the episodes that come first. None where the counts differ."""
    return slice(before, before + length) if len(frame_times(path)) == total else None


def place_by_time(path: Path, begin: float, length: int, fps: float) -> np.ndarray:
    """The same by their times: the frames nearest to begin + t / fps, which must be within half a frame, each once.

    DataError where that is not so: begin, in seconds from the first frame, or fps is not what the video has.
    """
    times = np.asarray(frame_times(path))
    wanted = begin + np.arange(length) / fps
    if not len(times):
        raise DataError(f"{path}: has no frames; copy the data set again from where it came")
    at = times - times[0]
    after = np.searchsorted(at, wanted).clip(1, max(1, len(at) - 1))
    nearest = np.where(wanted - at[after - 1] <= at[np.minimum(after, len(at) - 1)] - wanted, after - 1, after)
    nearest = nearest.clip(0, len(at) - 1)
    off = np.abs(at[nearest] - wanted)
    if off.max() > 0.5 / fps or len(np.unique(nearest)) < length:
        worst = int(off.argmax())
        raise DataError(
            f"{path}: holds {len(at)} frames, of which none is within half a frame of {wanted[worst]:.3f} s, where the "
            f"data set's fps of {fps:g} and from_timestamp place frame {worst} of an episode; correct these two"
        )
    return nearest


def decode_video(path: Path, place: slice | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The frames at `place` (as `place_by_count` or `place_by_time` gives it), uint8 (T, H, W, 3), in order of time.

    shape: what each must have, (H, W, 3). Compared before anything is decoded: DataError where it differs.
    """
    times = frame_times(path)[place] if isinstance(place, slice) else [frame_times(path)[i] for i in place]
    slot = {time: i for i, time in enumerate(times)}
    images = np.empty((len(times), *shape), np.uint8)
    try:
        with av.open(str(path), "r") as container:
            stream = container.streams.video[0]
            if (stream.height, stream.width, 3) != tuple(shape):
                raise DataError(
                    f"{path}: holds images of {(stream.height, stream.width, 3)}; the contract says {shape}"
                )
            if stream.time_base is not None:
                container.seek(round(times[0] / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                i = slot.pop(_time(frame.pts, stream), None)
                if i is not None:
                    images[i] = frame.to_ndarray(format="rgb24")
                if not slot:
                    break
    except DataError:
        raise
    except DAMAGE as error:
        raise _undecodable(path, error) from None
    if slot:
        raise DataError(
            f"{path}: the frame at {min(slot):.3f} s does not decode; copy the file again from where it came"
        )
    return images


def _undecodable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path}: does not decode ({error}); run `tandem data repair`, or copy it again from where it came"
    )


def _time(pts: int | None, stream: VideoStream) -> float:
    if pts is None or stream.time_base is None:
        raise DataError("video: a frame has no time; encode the file again")
    return float(pts * stream.time_base)


def _rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(100_000)
