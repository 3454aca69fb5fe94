"""Headless OpenGL: chosen before mujoco is first imported, because mujoco reads MUJOCO_GL only then."""

import os
import sys

if sys.platform.startswith("linux"):
    os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("LP_NUM_THREADS", "1")  # Mesa's software rasteriser: one core per environment
