"""Offscreen images of a MuJoCo model, for training (small, plain, fast) and for people (the same, larger)."""

import atexit
import os
import weakref
from functools import cache
from typing import Protocol

import mujoco
import numpy as np

from .errors import EnvError

_OFF = (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_SKYBOX)

_LIVE: "weakref.WeakSet[Closable]" = weakref.WeakSet()


class Closable(Protocol):
    """What holds resources of OpenGL."""

    def close(self) -> None:
        """Frees what OpenGL holds."""


def close_at_exit(renderer: Closable) -> None:
    """To be called after a context was made: mujoco ends EGL at exit, what is registered later runs before that."""
    _LIVE.add(renderer)
    _register_closing()


@cache
def _register_closing() -> None:
    atexit.register(_close_all)


def _close_all() -> None:
    for renderer in list(_LIVE):
        renderer.close()


class _Renderer(mujoco.Renderer):
    """Frees what is its own. mujoco's frees by number in whichever context drew last: the framebuffer and textures of
    another environment, whose images are noise from then on."""

    def close(self) -> None:
        if self._gl_context:
            self._gl_context.make_current()
        super().close()


class CameraRenderer:
    """One OpenGL context for one image size. Make it in the process that uses it. Close it there."""

    def __init__(self, model: mujoco.MjModel, size: int):
        buffer = model.vis.global_
        buffer.offwidth, buffer.offheight = max(size, buffer.offwidth), max(size, buffer.offheight)
        try:
            self._renderer = _Renderer(model, size, size)
        except Exception as error:  # mujoco's backends raise unrelated types; all of them mean: no OpenGL here
            backend = os.environ.get("MUJOCO_GL", "default")
            raise EnvError(
                f"cannot render: OpenGL backend {backend!r} failed ({error}); install libegl1 and libgl1-mesa-dri "
                "(or libosmesa6 with MUJOCO_GL=osmesa), and run `tandem doctor`"
            ) from error
        close_at_exit(self._renderer)
        for flag in _OFF:
            self._renderer.scene.flags[flag] = 0

    def image(self, data: mujoco.MjData, camera: str) -> np.ndarray:
        """uint8 (size, size, 3), RGB, row 0 at the top."""
        self._renderer.update_scene(data, camera)
        return self._renderer.render().copy()

    def close(self) -> None:
        """Frees what OpenGL holds."""
        self._renderer.close()


class Cameras:
    """Renderers of one model, made when an image of their size is first asked for."""

    def __init__(self, model: mujoco.MjModel):
        self.model = model
        self._renderers: dict[int, CameraRenderer] = {}

    def image(self, data: mujoco.MjData, camera: str, size: int) -> np.ndarray:
        """uint8 (size, size, 3), RGB, row 0 at the top."""
        if size not in self._renderers:
            self._renderers[size] = CameraRenderer(self.model, size)
        return self._renderers[size].image(data, camera)

    def close(self) -> None:
        """Frees what OpenGL holds."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers = {}
