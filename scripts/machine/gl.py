"""Which headless OpenGL backends work here, each probed in a process of its own: a broken driver may abort it.

A picture is right where it is the right way round in the right colours: a box stands in three corners of it, red at the
top left, green at the top right, blue at the bottom right.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

BACKENDS = ("egl", "osmesa", "glfw")
_BOX = '<geom type="box" size=".2 .2 .2" pos="{}" rgba="{} 1"/>'
SCENE = (
    '<mujoco><visual><headlight ambient="1 1 1" diffuse="0 0 0"/></visual><worldbody>'
    + _BOX.format("-.5 0 .5", "1 0 0") + _BOX.format(".5 0 .5", "0 1 0") + _BOX.format(".5 0 -.5", "0 0 1")
    + '<camera name="c" pos="0 -2.4 0" xyaxes="1 0 0 0 0 1" fovy="45"/></worldbody></mujoco>'
)  # fmt: skip
CORNERS = ("top left", "top right", "bottom left", "bottom right")
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 0), (0, 0, 255))
CLOSE = 60  # of 255


@dataclass(frozen=True)
class Probe:
    """Of one backend."""

    works: bool
    says: str  # the driver's name; where it does not work: the last line of what went wrong


def probe(backend: str, seconds: float = 60.0) -> Probe:
    """Draws with a backend of OpenGL in another process."""
    environment = os.environ | {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    if backend == "glfw":
        environment.pop("PYOPENGL_PLATFORM")
    line = [sys.executable, "-P", __file__, "draw"]
    try:
        done = subprocess.run(
            line, env=environment, capture_output=True, encoding="utf-8", errors="replace", timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return Probe(False, f"no answer in {seconds:.0f} s")
    said = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    return Probe(done.returncode == 0, said[-1] if said else f"exit code {done.returncode}")


def wrong(image: Any) -> str:
    """What is wrong with a picture of SCENE, uint8 (S, S, 3). Empty where it is right."""
    import numpy as np

    near, far = image.shape[0] // 4, image.shape[0] - image.shape[0] // 4
    found = image[[near, near, far, far], [near, far, near, far]].astype(int)
    if np.abs(found - COLOURS).max() <= CLOSE:
        return ""
    shown = ", ".join(f"{corner} {tuple(c.tolist())}" for corner, c in zip(CORNERS, found, strict=True))
    if image.max() < CLOSE:
        return "draws black pictures"
    turned = all(any(np.abs(c - other).max() <= CLOSE for other in COLOURS) for c in found)
    return f"draws {'turned, mirrored or miscoloured' if turned else 'wrong'} pictures: {shown}"


def draw() -> None:
    """In a process of its own: draws SCENE and prints the driver's name. Ends with what is wrong."""
    import mujoco
    from OpenGL import GL

    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, 32, 32) as renderer:
        renderer.update_scene(data, "c")
        image = renderer.render()
        driver = GL.glGetString(GL.GL_RENDERER) or b"?"
    print(driver.decode(errors="replace"))
    sys.exit(wrong(image) or 0)


if __name__ == "__main__":
    if sys.argv[1:] == ["draw"]:
        draw()
    sys.exit(0 if any(probe(backend).works for backend in BACKENDS) else 1)
