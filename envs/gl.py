"""Headless OpenGL: chosen before mujoco is first imported, because mujoco reads MUJOCO_GL only then.

A value that mujoco does not know ends its import, and with it every command, also those that draw nothing. So mujoco is
imported here as if drawing were switched off, and who wants to draw is told (`need_opengl`).
"""

import os
import sys

from .errors import EnvError

LINUX = sys.platform.startswith("linux")
BACKENDS = ("egl", "osmesa", "glfw", "glx") if LINUX else ("glfw", "cgl", "wgl")
SWITCHES = ("enable", "enabled", "on", "true", "1", "disable", "disabled", "off", "false", "0")  # mujoco's other words

if LINUX and not os.environ.get("MUJOCO_GL", "").strip():
    os.environ["MUJOCO_GL"] = "egl"
os.environ.setdefault("LP_NUM_THREADS", "1")  # Mesa's software rasteriser: one core per environment


def need_opengl() -> None:
    """EnvError where MUJOCO_GL says nothing that mujoco knows."""
    asked = os.environ.get("MUJOCO_GL", "").strip()
    if not _known(asked):
        usual = "egl (the default)" if LINUX else BACKENDS[0]
        others = ", ".join(name for name in BACKENDS if name != usual.split()[0])
        raise EnvError(f"MUJOCO_GL is {asked!r}, which is no OpenGL backend; set it to {usual}, {others}, or unset it")


def _known(name: str) -> bool:
    return name.lower() in ("", *BACKENDS, *SWITCHES)


if not _known(os.environ.get("MUJOCO_GL", "").strip()):
    _asked, os.environ["MUJOCO_GL"] = os.environ["MUJOCO_GL"], "disable"
    import mujoco  # noqa: F401

    os.environ["MUJOCO_GL"] = _asked
