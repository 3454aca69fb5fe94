"""What an environment renders becomes a picture as the contract promises, or is refused with task and camera named.

Converted: RGBA (alpha is dropped), grey (repeated), channels first, whole numbers of other types, and numbers 0 to 1 or
0 to 255 with a point (these with one warning, since a camera's kind is settled by its first picture). Every picture is
a copy: many environments draw into one buffer, and what was recorded must not change with the next step.
Refused: None, lists of pictures, other shapes, what is not finite or outside of 0 to 255, and 0 to 1 in whole numbers,
which is black.
"""

from typing import Any

import numpy as np
from PIL import Image

from .errors import EnvError
from .others import note

CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
ROUNDING = 1e-3  # by which 0 to 1 may be exceeded


class PictureError(EnvError):
    """A camera that cannot be used as it is: of an episode, and as a rule of every episode of the task."""


class Pictures:
    """Of one environment's cameras."""

    def __init__(self, task: str):
        self._task = task
        self._scale: dict[str, float] = {}  # camera -> what 1.0 is in, where its numbers have a point

    def converted(self, camera: str, frame: Any) -> np.ndarray:
        """What was rendered -> uint8 (H, W, 3), RGB, of its own memory."""
        as_promised = type(frame) is np.ndarray and frame.dtype == np.uint8 and frame.ndim == 3
        if as_promised and frame.size and frame.shape[2] == 3 and frame.shape[0] not in CHANNELS:
            return np.array(frame, order="C")
        array = self._channels_last(camera, self._array(camera, frame))
        if array.dtype == np.uint8:
            return np.array(array, order="C")
        return self._whole(camera, array) if array.dtype.kind in "iu" else self._pointed(camera, array)

    def refused(self, camera: str, why: str) -> PictureError:
        """The PictureError that names the task and the camera."""
        return PictureError(f"camera {camera!r} of task {self._task!r} {why}")

    def _array(self, camera: str, frame: Any) -> np.ndarray:
        if frame is None:
            raise self.refused(camera, 'renders nothing (None); make its environment with render_mode="rgb_array"')
        try:
            array = np.asarray(frame)
        except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, tensors on a GPU
            raise self.refused(camera, f"renders a {type(frame).__name__} that is no array: {error}") from error
        if array.dtype.kind not in "iuf" or array.size == 0:
            found = f"a {type(frame).__name__} of {array.dtype} {array.shape}"
            raise self.refused(camera, f"renders {found}; a picture is uint8 (H, W, 3)")
        return array

    def _channels_last(self, camera: str, array: np.ndarray) -> np.ndarray:
        """(H, W, 3) of the array's own type."""
        if array.ndim == 2:
            array = array[..., None]
        if array.ndim == 4:
            several = f'renders {len(array)} pictures at once; make its environment with render_mode="rgb_array"'
            raise self.refused(camera, several)
        first, last = (array.ndim == 3 and array.shape[axis] in CHANNELS for axis in (0, -1))
        if first == last:
            why = "either side may be the colours" if first else "a picture is uint8 (H, W, 3)"
            raise self.refused(camera, f"renders {array.dtype} of shape {array.shape}; {why}")
        if first:
            array = np.moveaxis(array, 0, -1)
        return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array[..., :3]

    def _whole(self, camera: str, array: np.ndarray) -> np.ndarray:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 255 or high == 1:
            why = "that looks like 0 to 1" if high == 1 and low >= 0 else f"its numbers are {low} to {high}"
            raise self.refused(camera, f"renders {array.dtype}: {why}; give uint8 in 0 to 255")
        return array.astype(np.uint8, order="C")

    def _pointed(self, camera: str, array: np.ndarray) -> np.ndarray:
        low, high = float(array.min()), float(array.max())
        if not np.isfinite(low + high) or low < -ROUNDING or high > 255 + ROUNDING:
            raise self.refused(camera, f"renders {array.dtype} of {low:.4g} to {high:.4g}; give uint8 in 0 to 255")
        scale = self._scale.get(camera)
        if scale is None and high > 0:  # a picture that is all black says nothing about its kind
            scale = self._scale[camera] = 255.0 if high <= 1 + ROUNDING else 1.0
            of = "0 to 1" if scale == 255 else "0 to 255"
            note(f"camera {camera!r} of task {self._task!r} renders {array.dtype} in {of}, which is converted to uint8")
        if scale == 255 and high > 1 + ROUNDING:
            raise self.refused(camera, f"rendered {array.dtype} in 0 to 1, and now up to {high:.4g}; give uint8")
        return np.clip(np.rint(array * (scale or 0.0)), 0, 255).astype(np.uint8, order="C")


def fitted(picture: np.ndarray, size: int) -> np.ndarray:
    """uint8 (H, W, 3) -> (size, size, 3), each pixel the mean of those that it covers. A picture that is not square is
    squeezed into one, whole: a crop would leave out what the task may need."""
    if picture.shape == (size, size, 3):
        return picture
    return np.array(Image.fromarray(picture).resize((size, size), Image.Resampling.BOX))
