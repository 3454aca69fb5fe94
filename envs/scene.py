"""MuJoCo models of tabletop scenes: the arm, a table, two cameras, and what a task asks for.

A model is compiled once per set of fixtures. What changes between episodes (shapes, colours, positions of fixed
things) is written into the compiled model, so that a reset is cheap and the renderer lives on. Every movable object
carries all shapes. The inactive ones neither collide nor show. Mass and inertia do not depend on the shape.
"""

from functools import cache

import mujoco

from .entities import SHAPES
from .kinematics import PANDA

OBJECT_RADIUS = 0.0225  # half the size of every object [m]
OBJECTS = 3  # movable objects in a scene
BUTTON_TRAVEL = 0.012  # [m]
FRONT_DEGREES = 30  # height of the front camera's view, which the things of all tasks fill (|u| < 0.92)
BOWL_RADIUS, BOWL_HEIGHT = 0.065, 0.035  # inner radius and rim height [m]

_OBJECT = """
<body name="object{i}" pos="{x} -.6 {r}">
  <freejoint name="object{i}"/>
  <inertial pos="0 0 0" mass=".06" diaginertia="2.5e-5 2.5e-5 2.5e-5"/>
  <geom name="object{i}_cube" type="box" size="{r} {r} {r}" class="object"/>
  <geom name="object{i}_cylinder" type="cylinder" size="{r} {r}" class="object"/>
  <geom name="object{i}_ball" type="sphere" size="{r}" class="object" friction="1 .02 .004"/>
</body>"""
_BUTTON = """
<body name="button{i}" pos=".5 0 0">
  <geom type="cylinder" size=".04 .005" pos="0 0 .005" rgba=".35 .35 .38 1"/>
  <body name="button{i}_cap" pos="0 0 .03">
    <joint name="button{i}" type="slide" axis="0 0 -1" range="0 .012" stiffness="120" damping="4" armature=".02"/>
    <geom name="button{i}_cap" type="cylinder" size=".028 .012" mass=".05"/>
  </body>
</body>"""
_MARK = """
<body name="mark" pos=".5 0 0">
 <geom type="cylinder" size=".04 .0008" rgba=".05 .05 .05 1" contype="0" conaffinity="0"/></body>"""
_DRAWER = """
<body name="cabinet" pos=".62 0 0">
  <geom type="box" size=".09 .09 .004" pos="0 0 .076" rgba=".62 .45 .28 1"/>
  <geom type="box" size=".09 .004 .036" pos="0 .086 .036" rgba=".62 .45 .28 1"/>
  <geom type="box" size=".09 .004 .036" pos="0 -.086 .036" rgba=".62 .45 .28 1"/>
  <geom type="box" size=".004 .09 .036" pos=".086 0 .036" rgba=".62 .45 .28 1"/>
  <body name="drawer" pos="0 0 .036">
    <joint name="drawer" type="slide" axis="-1 0 0" range="0 .16" damping="3" frictionloss="1.5" armature=".1"/>
    <geom type="box" size=".085 .078 .003" pos="-.005 0 -.028" rgba=".8 .66 .45 1" mass=".3"/>
    <geom type="box" size=".004 .078 .03" pos="-.096 0 0" rgba=".85 .72 .5 1" mass=".2"/>
    <geom name="handle" type="capsule" size=".008" fromto="-.15 -.04 .01 -.15 .04 .01" rgba=".1 .75 .8 1" mass=".05"
          friction="1.5 .05 .001"/>
    <geom type="capsule" size=".006" fromto="-.15 -.04 .01 -.1 -.04 .01" rgba=".1 .75 .8 1" mass=".02"/>
    <geom type="capsule" size=".006" fromto="-.15 .04 .01 -.1 .04 .01" rgba=".1 .75 .8 1" mass=".02"/>
  </body>
</body>"""
_TEMPLATE = """
<mujoco model="tabletop">
  <include file="{panda}"/>
  <compiler angle="radian" autolimits="true"/>
  <option timestep="0.0025" integrator="implicitfast" cone="pyramidal" impratio="10" iterations="50"
   ls_iterations="10"/>
  <size memory="8M"/>
  <visual>
    <headlight ambient=".4 .4 .4" diffuse=".35 .35 .35" specular="0 0 0"/>
    <quality offsamples="0" shadowsize="0" numslices="14" numstacks="8" numquads="2"/>
    <global offwidth="640" offheight="640"/><map znear=".02" zfar="6"/>
  </visual>
  <default>
    <default class="object">
      <geom condim="6" friction="1 .02 .0005" solimp=".95 .99 .001" solref=".006 1" rgba="0 0 0 0"/>
    </default>
  </default>
  <worldbody>
    <light pos=".5 0 1.8" dir="0 0 -1" castshadow="false" diffuse=".3 .3 .3"/>
    <geom name="table" type="box" size=".5 .6 .02" pos=".45 0 -.02" rgba=".62 .62 .6 1" friction="1 .02 .0005"/>
    <camera name="front" pos=".87 0 .98" xyaxes="0 1 0 -0.9216 0 0.3881" fovy="{degrees}"/>
    {bodies}
  </worldbody>
</mujoco>"""


@cache
def compile_scene(fixtures: tuple[str, ...]) -> mujoco.MjModel:
    """fixtures of "objects", "bowl", "mark", "drawer", "buttons" -> a compiled model. Copy it before writing."""
    parts = {
        "objects": "".join(_OBJECT.format(i=i, x=0.2 + 0.1 * i, r=OBJECT_RADIUS) for i in range(OBJECTS)),
        "buttons": "".join(_BUTTON.format(i=i) for i in range(OBJECTS)),
        "bowl": _bowl(),
        "mark": _MARK,
        "drawer": _DRAWER,
    }
    bodies = "".join(parts[name] for name in fixtures)
    return mujoco.MjModel.from_xml_string(_TEMPLATE.format(panda=PANDA, degrees=FRONT_DEGREES, bodies=bodies))


def _bowl(sides: int = 10) -> str:
    """A floor and a ring of inclined walls."""
    walls = ""
    for k in range(sides):
        angle = 2 * 3.14159265 * k / sides
        walls += (
            f'<body euler="0 0 {angle:.5f}"><geom type="box" size=".003 .0225 .0185" pos=".069 0 .0175" '
            'euler="0 .25 0" rgba=".95 .95 .95 1"/></body>'
        )
    floor = f'<geom type="cylinder" size="{BOWL_RADIUS} .002" pos="0 0 .002" rgba=".88 .88 .9 1"/>'
    return f'<body name="bowl" pos=".5 0 0">{floor}{walls}</body>'


def shape_geoms(model: mujoco.MjModel, index: int) -> dict[str, int]:
    """Geom ids of every shape that movable object `index` can take."""
    return {shape: model.geom(f"object{index}_{shape}").id for shape in SHAPES}
