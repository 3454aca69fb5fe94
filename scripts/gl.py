"""Which headless OpenGL backends work here, each probed in a process of its own: a broken driver may abort it."""

import os
import subprocess
import sys

BACKENDS = ("egl", "osmesa", "glfw")
_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 2"/><geom type="box" size=".3 .3 .3" rgba="1 0 0 1"/>'
    '<camera name="c" pos="0 -2 1" xyaxes="1 0 0 0 .4 .9"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data, "c")
    image = renderer.render()
assert image[16, 16, 0] > 40 > image[16, 16, 1], "the picture is wrong"
"""


def probe(backend: str, seconds: float = 60.0) -> str | None:
    """None where `backend` renders a correct picture, else the last line of what went wrong."""
    environment = os.environ | {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    if backend == "glfw":
        environment.pop("PYOPENGL_PLATFORM")
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], env=environment, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {seconds:.0f} s"
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


if __name__ == "__main__":
    sys.exit(0 if any(probe(backend) is None for backend in BACKENDS) else 1)
