"""Offscreen images of a MuJoCo model, for training (small, plain, fast) and for people (the same, larger)."""

import os
import weakref

import mujoco
import numpy as np

from envs.errors import EnvError

_OFF = (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_SKYBOX)


class CameraRenderer:
    """One OpenGL context for one image size. Make it in the process that uses it; close it there."""

    def __init__(self, model: mujoco.MjModel, size: int):
        try:
            self._renderer = mujoco.Renderer(model, size, size)
        except Exception as error:  # mujoco's backends raise unrelated types; all of them mean: no OpenGL here
            backend = os.environ.get("MUJOCO_GL", "default")
            raise EnvError(
                f"cannot render: OpenGL backend {backend!r} failed ({error}); install libegl1 and libgl1-mesa-dri "
                "(or libosmesa6 with MUJOCO_GL=osmesa), and run `tandem doctor`"
            ) from error
        self._close = weakref.finalize(self, self._renderer.close)  # at exit too, before OpenGL is gone
        for flag in _OFF:
            self._renderer.scene.flags[flag] = 0

    def image(self, data: mujoco.MjData, camera: str) -> np.ndarray:
        """uint8 (size, size, 3), RGB, row 0 at the top."""
        self._renderer.update_scene(data, camera)
        return self._renderer.render().copy()

    def close(self) -> None:
        self._close()
