"""MuJoCo inside of somebody's gymnasium environment: found, made fast to draw, drawn apart from others, and watched
while it runs.

MuJoCo's default quality (four samples a pixel, shadows of 4096 pixels) is for people's screens. In pictures of about a
hundred pixels it is hardly seen, and where no GPU draws it costs 20 to 50 times what the picture itself does.
"""

import sys
from types import ModuleType
from typing import Any, TypeVar

import mujoco

T = TypeVar("T")
DEPTH = 3  # how deep is looked: env.model, env.robot.model, env.world.robot.model
BROKEN = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC,
          mujoco.mjtWarning.mjWARN_BADCTRL)  # fmt: skip


def held(env: object, kind: type[T]) -> list[T]:
    """The objects of `kind` that an environment or what it holds keeps as attributes."""
    found: dict[int, T] = {}
    seen, level = {id(env)}, [env]
    for _ in range(DEPTH):
        values = [value for holder in level for value in getattr(holder, "__dict__", {}).values()]
        found |= {id(value): value for value in values if isinstance(value, kind)}
        level = [value for value in values if id(value) not in seen and not isinstance(value, (type, ModuleType))]
        seen |= {id(value) for value in level}
    return list(found.values())


def draw_fast(env: object) -> bool:
    """Switches off what makes small pictures slow, in all models that `env` holds: several samples a pixel, shadows and
    mirrors. Renderers that were made before draw so from now on. False: it holds no model."""
    models = held(env, mujoco.MjModel)
    for model in models:
        quality = model.vis.quality
        sampled = quality.offsamples or quality.shadowsize
        quality.offsamples = quality.shadowsize = 0
        model.light_castshadow[:] = 0
        model.mat_reflectance[:] = 0
        if sampled:
            for renderer in held(env, mujoco.Renderer):
                if renderer.model is model:
                    _draw_anew(renderer)
    return bool(models)


def _draw_anew(renderer: Any) -> None:
    """A context takes its quality from the model when it is made."""
    if renderer._mjr_context is None:  # closed
        return
    if renderer._gl_context:
        renderer._gl_context.make_current()
    old = renderer._mjr_context
    new = mujoco.MjrContext(renderer.model, mujoco.mjtFontScale.mjFONTSCALE_150.value)
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, new)
    new.readDepthMap = old.readDepthMap
    old.free()
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, new)
    renderer._mjr_context = new


def viewers(env: object) -> list[Any]:
    """Gymnasium's offscreen viewers that an environment holds: each draws into whichever OpenGL context is the current
    one, be it another environment's. `viewer.make_context_current()` before it draws."""
    rendering = sys.modules.get("gymnasium.envs.mujoco.mujoco_rendering")  # needs imageio, so it is not imported here
    return held(env, rendering.OffScreenViewer) if rendering is not None else []


def free_drawing(env: object) -> None:
    """Frees what the renderers of `env` drew with, each in its own OpenGL context. They would free it by number in
    whichever context is the current one: the textures and buffers of another environment."""
    for renderer in held(env, mujoco.Renderer):
        if renderer._gl_context:
            renderer._gl_context.make_current()
        renderer.close()
    for viewer in viewers(env):
        viewer.make_context_current()
        viewer.con.free()


class Divergence:
    """Did the simulations of an environment break since the episode began?"""

    def __init__(self, env: object):
        self._watched = [(data, self._count(data)) for data in held(env, mujoco.MjData)]

    def found(self) -> bool:
        """MuJoCo may put the state back as compiled when it breaks, so the state alone does not tell."""
        return any(self._count(data) not in (0, before) for data, before in self._watched)

    @staticmethod
    def _count(data: mujoco.MjData) -> int:
        return sum(data.warning[kind].number for kind in BROKEN)
