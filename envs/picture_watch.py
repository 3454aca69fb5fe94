"""Cameras that show nothing: one colour, or the same picture for ever. They are refused, since a policy learns nothing
from them and nobody would see it.

- One colour (`of_one_colour`): any camera's first picture of an episode. Later only where all cameras have shown one
  colour for LOOKS looks on end, as a wrist camera may be pressed on what it grasps.
- 0 to 1 instead of 0 to 255: a first picture that holds nothing but zeros and ones.
- Frozen: pictures equal bit for bit over LOOKS looks on end (resets included) while more than half of those entries of
  the state that ever vary have moved, each by more than MOVED of its range. Where all cameras are frozen, at once. One
  camera alone, after RESETS resets, as it may look at a plain wall for a while.
- Frozen over resets: RESETS resets on end with first states that differ, one instruction, and equal first pictures.

What moves outside of the picture looks frozen too: `TaskEnv.check_pictures` turns all of this off. What cannot be told
for any environment at all: turned or mirrored pictures, and wrong colours. `tandem doctor` draws a known scene.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .pictures import PictureError

LOOKS, RESETS = 20, 3
APART = 20  # of 255
MOVED = 0.02  # share of an entry's range
UNKNOWN_RANGE = 1.0  # of an entry without limits, where less has been seen
REMEDY = "run `tandem doctor` and check MUJOCO_GL; if that is what it should show, set check_pictures=False"


@dataclass
class _Stretch:
    """Of equal pictures of one camera, one after the other."""

    content: bytes
    low: np.ndarray  # (S,) of the states in it
    high: np.ndarray
    looks: int = 1
    resets: int = 0


class PictureWatch:
    """Watches the cameras of an environment for pictures that show nothing."""

    def __init__(self, task: str, limits: tuple[np.ndarray, np.ndarray]):
        """limits: lowest and highest state, (S,) each. Infinite where there is no limit."""
        self._task = task
        self._stretches: dict[str, _Stretch] = {}
        span = np.asarray(limits[1], np.float64) - np.asarray(limits[0], np.float64)
        self._span = np.where(np.isfinite(span) & (span > 0), span, np.nan)
        self._low, self._high = np.full(len(span), np.inf), np.full(len(span), -np.inf)  # seen so far
        self._first = True  # the next look is the first one of an episode
        self._opening = False  # this look is
        self._blank = 0  # looks on end in which all cameras showed one colour
        self._resets: tuple[object, set[str]] = (None, set())  # first pictures and words, and the states that had them

    def restart(self) -> None:
        """A new episode."""
        self._first, self._blank = True, 0

    def colours(self, pictures: Mapping[str, np.ndarray]) -> None:
        """PictureError where cameras show one colour. pictures: uint8 (H, W, 3) by camera, of one look."""
        self._opening, self._first = self._first, False
        if self._opening:
            for camera, picture in pictures.items():
                if picture.max() == 1:
                    raise PictureError(
                        f"camera {camera!r} of task {self._task!r} renders pictures that look like 0 to 1 in uint8; "
                        "multiply them by 255"
                    )
                if of_one_colour(picture):
                    raise self._refused(camera, "renders one colour")
        self._blank = self._blank + 1 if all(of_one_colour(picture) for picture in pictures.values()) else 0
        if self._blank >= LOOKS:
            raise self._refused(", ".join(pictures), f"has rendered one colour for {LOOKS} looks")

    def still(
        self, pictures: Mapping[str, np.ndarray], state: np.ndarray, instruction: str, digest: Callable[[], str]
    ) -> None:
        """PictureError where the pictures of cameras stay the same. After `colours`, of the same look. state: (S,).
        digest: of the episode's first state, asked for at its first look."""
        if not np.isfinite(state).all():  # the simulation broke, which the step says
            return
        self._frozen(pictures, state)
        if self._opening:
            self._over_resets(instruction, digest())

    def _frozen(self, pictures: Mapping[str, np.ndarray], state: np.ndarray) -> None:
        np.minimum(self._low, state, out=self._low)
        np.maximum(self._high, state, out=self._high)
        for camera, picture in pictures.items():
            content, stretch = picture.tobytes(), self._stretches.get(camera)
            if stretch is None or stretch.content != content:
                self._stretches[camera] = _Stretch(content, state, state)
                continue
            stretch.looks += 1
            stretch.resets += self._opening
            stretch.low, stretch.high = np.minimum(stretch.low, state), np.maximum(stretch.high, state)
        still = [camera for camera in pictures if self._stretches[camera].looks >= LOOKS]
        for camera in still:
            stretch = self._stretches[camera]
            if (len(still) == len(pictures) or stretch.resets >= RESETS) and self._moved(stretch.high - stretch.low):
                looks = stretch.looks
                raise self._refused(camera, f"has rendered the same picture for {looks} looks while the state moved")

    def _moved(self, way: np.ndarray) -> bool:
        seen = self._high - self._low
        span = np.where(np.isnan(self._span), np.maximum(seen, UNKNOWN_RANGE), self._span)
        vary = seen > MOVED * span
        return bool(vary.any()) and bool((way > MOVED * span)[vary].mean() > 0.5)

    def _over_resets(self, instruction: str, digest: str) -> None:
        shown = instruction, tuple(stretch.content for stretch in self._stretches.values())
        if shown != self._resets[0]:
            self._resets = shown, set()
        self._resets[1].add(digest)
        if len(self._resets[1]) >= RESETS:
            cameras = ", ".join(self._stretches)
            raise self._refused(cameras, f"rendered the same first picture of {RESETS} first states that differ")

    def _refused(self, camera: str, why: str) -> PictureError:
        return PictureError(f"camera {camera!r} of task {self._task!r} {why}; {REMEDY}")


def of_one_colour(picture: np.ndarray) -> bool:
    """uint8 (H, W, 3): all pixels within APART of each other, and a standard deviation below 1, in every channel."""
    H, W, _ = picture.shape
    some = picture[:: max(1, H // 8), :: max(1, W // 8), 1]  # of most pictures these tell, in a microsecond
    if _range(some) > APART or any(_range(picture[..., channel]) > APART for channel in range(3)):
        return False
    return bool(picture.reshape(-1, 3).std(0).max() < 1.0)


def _range(values: np.ndarray) -> int:
    return int(values.max()) - int(values.min())
